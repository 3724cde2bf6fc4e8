"""TiTok's class-conditional generators: masked priors over its 1D tokens (arXiv 2406.07550, official code
bytedance/1d-tokenizer).

Two networks are released: a BERT for L-32 and B-64 and a U-ViT for S-128. This file holds their sizes, their
sampler settings and how official weights map onto them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.nn.masked_transformer import Form, MaskedTransformer
from jaxtok.nn.transformer import Remat
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked, MaskedSettings
from jaxtok.systems.image.prior_shape import PriorShape, masked_network
from jaxtok.systems.image.titok_table import TOKENIZER_KEYS
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import OF_A_RUN, set_aside
from jaxtok.weights import Entry, Table, dense, squeeze_leading


@dataclasses.dataclass(frozen=True)
class TiTokMaskGIT:
    """Sizes of a generator; every released one is a class method.

    Attributes:
      tokens: N of the tokenizer.
      codebook: K, number of its codes; of a token with several slots the levels of each.
      classes: number of classes.
      form: "bert" or "unet".
      layers: blocks, for the U-ViT without the middle one.
      heads: attention heads.
      width: of a token.
      hidden: inner width of the feed-forward halves.
      settings: recommended sampler settings.
      remat: what the backward pass recomputes.
      unroll: layers per iteration of the layer scan.
    """

    tokens: int = 32
    codebook: int | tuple[int, ...] = 4096
    classes: int = 1000
    form: Form = "bert"
    layers: int = 24
    heads: int = 16
    width: int = 768
    hidden: int = 3072
    settings: MaskedSettings = MaskedSettings.titok()
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must divide by heads={self.heads}")

    @classmethod
    def tiny(cls) -> "TiTokMaskGIT":
        """A generator for 16 tokens of 64 codes and ten classes; trains in a minute on two CPU cores."""
        # Few steps and a small temperature: annealed as well, every class would have one image.
        settings = dataclasses.replace(MaskedSettings.titok(4, 1.0, 1.0), temperature_annealed=False)
        return cls(16, 64, 10, "bert", 4, 4, 128, 512, settings, unroll=4)

    @classmethod
    def l32(cls) -> "TiTokMaskGIT":
        """The generator of TiTok-L-32: gFID 2.77 in 8 steps."""
        return cls(settings=MaskedSettings.titok(8, 9.5, 4.5))

    @classmethod
    def b64(cls) -> "TiTokMaskGIT":
        """The generator of TiTok-B-64: gFID 2.48 in 8 steps."""
        return cls(tokens=64, settings=MaskedSettings.titok(8, 11.0, 3.0))

    @classmethod
    def s128(cls) -> "TiTokMaskGIT":
        """The generator of TiTok-S-128: gFID 1.97 in 64 steps."""
        settings = MaskedSettings.titok(64, 2.8, 6.9, "power-cosine")
        return cls(128, 4096, 1000, "unet", 20, 16, 1024, 4096, settings)

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return CodeSpace((self.codebook,) if isinstance(self.codebook, int) else self.codebook)

    def network(self, dtype: Any = jnp.float32) -> MaskedTransformer:
        """The network."""
        shape = PriorShape(self.layers, self.heads, self.width // self.heads, self.remat, self.unroll)
        return masked_network(
            shape, self.space, self.tokens, self.classes, self.form, dtype, hidden=self.hidden
        )

    def prior(self, dtype: Any = jnp.float32) -> Prior:
        """Network and method, trained as the official one: label smoothing 0.1, weight 0.1 where nothing is
        masked, weights normalised over the batch.
        """
        return Prior(self.network(dtype), Masked(self.space, weights="batch", settings=self.settings))

    def shapes(self) -> dict[str, Any]:
        """Variables as shapes, nothing is allocated."""
        codes = Latents(codes=jnp.zeros((1, self.tokens, self.space.slots), jnp.int32))
        condition = Condition(jnp.zeros((1,), jnp.int32))
        return {"params": jax.eval_shape(self.prior().init, jax.random.key(0), codes, condition)}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


# -- official weights --


def from_official(config: Mapping[str, Any]) -> TiTokMaskGIT:
    """Our configuration from an official one: "model" with "vq_model" and "generator" (network and sampler),
    and what is left out as in the generator of L-32.

    Raises:
      ValueError: an unknown `model_type` or `guidance_decay`.
    """
    model = config.get("model", config)
    generator, published = model.get("generator", {}), TiTokMaskGIT.l32()
    set_aside(config, *OF_A_RUN)
    set_aside(model.get("vq_model", {}), *TOKENIZER_KEYS)
    kinds: dict[str, Form] = {"ViT": "bert", "UViT": "unet"}
    kind = generator.get("model_type", "ViT")
    layers = generator.get("num_hidden_layers", published.layers)
    if kind not in kinds:
        raise ValueError(f"model_type={kind!r} of the generator; choose one of {sorted(kinds)}")
    return dataclasses.replace(
        published,
        tokens=generator.get("image_seq_len", published.tokens),
        codebook=model.get("vq_model", {}).get("codebook_size", published.codebook),
        classes=generator.get("condition_num_classes", published.classes),
        form=kinds[kind],
        # The official U-ViT has `layers // 2` blocks on either side of the one in the middle.
        layers=layers - layers % 2 if kind == "UViT" else layers,
        heads=generator.get("num_attention_heads", published.heads),
        width=generator.get("hidden_size", published.width),
        hidden=generator.get("intermediate_size", published.hidden),
        settings=_sampler(generator, published.settings),
    )


def _sampler(generator: Mapping[str, Any], published: MaskedSettings) -> MaskedSettings:
    """Settings from the arguments of the official `generate`, which stand beside those of the network."""
    settings = MaskedSettings.titok(
        generator.get("num_steps", published.steps),
        generator.get("randomize_temperature", published.temperature),
        generator.get("guidance_scale", published.guidance),
        generator.get("guidance_decay", published.guidance_schedule),
        generator.get("guidance_scale_pow", published.guidance_power),
    )
    annealed = generator.get("softmax_temperature_annealing", published.softmax_annealed)
    return dataclasses.replace(settings, softmax_annealed=annealed)


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model"."""
    model = TiTokMaskGIT.l32() if config is None else from_official(config)
    bert = model.form == "bert"
    # The golden files and the official module call the BERT inside "model" as well.
    signature = "model.lm_head.weight" if bert else "lm_head.weight"
    table = _bert_table(model) if bert else _unet_table(model)
    return {"model": OfficialComponent("masked", model.network(), model.shapes(), table, signature)}


def _linear(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/kernel", dense, layers),
        Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers),
    ]


def _norm(theirs: str, ours: str, layers: range | None = None) -> list[Entry]:
    return [
        Entry(f"{theirs}.weight", f"{ours}/scale", indices=layers),
        Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers),
    ]


def _bert_table(model: TiTokMaskGIT) -> Table:
    layers, theirs, ours = range(model.layers), "model.encoder.layer.{i}", "stack/block"
    embeddings = "model.embeddings"
    entries = [
        Entry(f"{embeddings}.word_embeddings.weight", "table"),
        Entry(f"{embeddings}.position_embeddings.weight", "positions"),
        Entry(f"{embeddings}.token_type_embeddings.weight", "segment_table"),
        *_norm(f"{embeddings}.LayerNorm", "norm"),
        *_linear("model.lm_head", "out"),
        *_linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", layers),
        *_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm", layers),
        *_linear(f"{theirs}.intermediate.dense", f"{ours}/feed_forward/up", layers),
        *_linear(f"{theirs}.output.dense", f"{ours}/feed_forward/down", layers),
        *_norm(f"{theirs}.output.LayerNorm", f"{ours}/feed_forward_norm", layers),
    ]
    for name in ("query", "key", "value"):
        entries += _linear(f"{theirs}.attention.self.{name}", f"{ours}/attention/{name}", layers)
    return Table(tuple(entries))


def _unet_table(model: TiTokMaskGIT) -> Table:
    half = range(model.layers // 2)
    entries = [
        Entry("embeddings.weight", "table"),
        Entry("pos_embed", "positions", squeeze_leading(1)),
        *_norm("norm", "norm"),
        *_linear("lm_head", "out"),
        *_block("mid_block", "stack/middle", None),
    ]
    if half:
        entries += _block("in_blocks.{i}", "stack/in/block", half)
        entries += _block("out_blocks.{i}", "stack/out/block/block", half)
        entries += _linear("out_blocks.{i}.skip_linear", "stack/out/block/skip", half)
    return Table(tuple(entries))


def _block(theirs: str, ours: str, layers: range | None) -> list[Entry]:
    packed = [
        Entry(f"{theirs}.attn.qkv.weight", f"{ours}/attention/{name}/kernel", dense, layers, part=(i, 3))
        for i, name in enumerate(("query", "key", "value"))
    ]
    return [
        *packed,
        *_linear(f"{theirs}.attn.proj", f"{ours}/attention/out", layers),
        *_norm(f"{theirs}.norm1", f"{ours}/attention_norm", layers),
        *_norm(f"{theirs}.norm2", f"{ours}/feed_forward_norm", layers),
        *_linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up", layers),
        *_linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down", layers),
    ]


SYSTEM = TiTokMaskGIT
