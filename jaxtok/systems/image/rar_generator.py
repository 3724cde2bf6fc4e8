"""RAR's generators: next-token priors of a grid of codes that were trained in random orders first (arXiv
2411.00776, official code bytedance/1d-tokenizer).

This file holds their sizes, their sampler settings and how official weights map onto them. What is not here:
the dropout of 0.1 with which they were trained.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Latents
from jaxtok.nn.masked_transformer import masked_vocab
from jaxtok.nn.permuted_transformer import PermutedTransformer
from jaxtok.nn.transformer import Remat
from jaxtok.priors.contract import Prior
from jaxtok.priors.permuted import Permuted, PermutedSettings
from jaxtok.systems.image.titok_table import TOKENIZER_KEYS
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import OF_A_RUN, set_aside
from jaxtok.weights import Entry, Table, dense, squeeze_leading


def sampling(temperature: float, guidance: float, power: float) -> PermutedSettings:
    """Settings from official ones, whose strength s means u + s (c - u); 0 is no guidance, and so is 1."""
    strength = guidance - 1 if guidance else 0.0
    return PermutedSettings(strength, temperature, guidance_power=power, given_first=False)


# Layers, heads, width, inner width and sampler (temperature, guidance, power), by their published names.
SIZES = {
    "B": ((24, 16, 768, 3072), (1.0, 16.0, 2.75)),
    "L": ((24, 16, 1024, 4096), (1.02, 15.5, 2.5)),
    "XL": ((32, 16, 1280, 5120), (1.02, 6.9, 1.5)),
    "XXL": ((40, 16, 1408, 6144), (1.02, 8.0, 1.2)),
}


@dataclasses.dataclass(frozen=True)
class RARGenerator:
    """Sizes of a generator; every published one is `RARGenerator.published(name)`.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      width: of a token.
      hidden: inner width of the feed-forward halves.
      tokens: N of the tokenizer.
      codebook: K, number of its codes.
      classes: number of classes; "no class" is one more.
      condition_dropout: share of the rows that train without class.
      settings: recommended sampler settings.
      spare_positions: rows of both tables of positions that nothing reads, as released.
      spare_steps: the same of the table of places in the sequence.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: layers per iteration of the layer scan.
    """

    layers: int = 24
    heads: int = 16
    width: int = 768
    hidden: int = 3072
    tokens: int = 256
    codebook: int = 1024
    classes: int = 1000
    condition_dropout: float = 0.1
    settings: PermutedSettings = sampling(*SIZES["B"][1])
    spare_positions: int = 1022
    spare_steps: int = 98
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must divide by heads={self.heads}")

    @classmethod
    def published(cls, size: str) -> "RARGenerator":
        """A published size: "B", "L", "XL" or "XXL".

        Raises:
          ValueError: an unknown size.
        """
        if size not in SIZES:
            raise ValueError(f"no size {size!r} of RAR; there are {', '.join(SIZES)}")
        shape, sampler = SIZES[size]
        return cls(*shape, settings=sampling(*sampler))

    @classmethod
    def tiny(cls) -> "RARGenerator":
        """A generator for 16 tokens of 64 codes and ten classes; trains in minutes on two CPU cores."""
        settings = PermutedSettings(3.0, guidance_power=1.0, given_first=False)
        return cls(3, 3, 96, 384, 16, 64, 10, 0.1, settings, 0, 0, unroll=3)

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return CodeSpace((self.codebook,))

    def network(self, dtype: Any = jnp.float32) -> PermutedTransformer:
        """The network."""
        return PermutedTransformer(
            masked_vocab(self.space, self.classes),
            self.tokens,
            self.layers,
            self.heads,
            self.width // self.heads,
            self.hidden,
            self.spare_positions,
            self.spare_steps,
            self.remat,
            self.unroll,
            dtype,
        )

    def prior(self, dtype: Any = jnp.float32, random_until: int = 0, raster_from: int = 0) -> Prior:
        """Network and method.

        Args:
          dtype: of the computation.
          random_until: optimizer steps in which every order is random.
          raster_from: step from which none is, see `Permuted`.
        """
        method = Permuted(self.space, self.condition_dropout, self.settings, random_until, raster_from)
        return Prior(self.network(dtype), method)

    def shapes(self) -> dict[str, Any]:
        """Variables as shapes, nothing is allocated."""
        codes = Latents(codes=jnp.zeros((1, self.tokens, 1), jnp.int32))
        condition = self.network().class_condition(jnp.zeros((1,), jnp.int32))
        return {"params": jax.eval_shape(self.prior().init, jax.random.key(0), codes, condition)}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


# -- official weights --


def from_official(config: Mapping[str, Any]) -> RARGenerator:
    """Our configuration from an official one: "model" with "vq_model" and "generator", and what is left out
    as in RAR-B.

    Raises:
      ValueError: another `model_type` than "rar", or a width that the heads do not divide.
    """
    model = config.get("model", config)
    generator, published = model.get("generator", {}), RARGenerator.published("B")
    set_aside(config, *OF_A_RUN)
    # How it was trained: recomputation, and when the orders of tokens became the usual one.
    set_aside(generator, "use_checkpoint", "randomness_anneal_start", "randomness_anneal_end")
    set_aside(model.get("vq_model", {}), *TOKENIZER_KEYS)
    if (kind := generator.get("model_type", "rar")) != "rar":
        raise ValueError(f"model_type={kind!r} of the generator; this system is 'rar'")
    return dataclasses.replace(
        published,
        layers=generator.get("num_hidden_layers", published.layers),
        heads=generator.get("num_attention_heads", published.heads),
        width=generator.get("hidden_size", published.width),
        hidden=generator.get("intermediate_size", published.hidden),
        tokens=generator.get("image_seq_len", published.tokens),
        codebook=model.get("vq_model", {}).get("codebook_size", published.codebook),
        classes=generator.get("condition_num_classes", published.classes),
        settings=sampling(
            generator.get("randomize_temperature", published.settings.temperature),
            generator.get("guidance_scale", published.settings.guidance + 1),
            generator.get("guidance_scale_pow", published.settings.guidance_power),
        ),
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model": the generator. The tokenizer has a file of
    its own, that of "maskgit_vqgan".
    """
    model = RARGenerator.published("B") if config is None else from_official(config)
    table = generator_table(model.layers)
    return {"model": OfficialComponent("autoregressive", model.network(), model.shapes(), table, "cls_token")}


def generator_table(depth: int) -> Table:
    """Where every tensor of an official generator of `depth` blocks goes."""
    layers, theirs, ours = range(depth), "blocks.{i}", "stack/block"

    def linear(theirs, ours, layers=None, part=None):
        return [
            Entry(f"{theirs}.weight", f"{ours}/kernel", dense, layers, part),
            Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers, part=part),
        ]

    def norm(theirs, ours):
        return [
            Entry(f"{theirs}.weight", f"{ours}/scale", indices=layers),
            Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers),
        ]

    entries = [
        Entry("embeddings.weight", "table"),
        Entry("cls_token", "first", squeeze_leading(2)),
        Entry("pos_embed", "positions", squeeze_leading(1)),
        Entry("target_aware_pos_embed", "targets", squeeze_leading(1)),
        Entry("timesteps_embeddings", "steps", squeeze_leading(1)),
        *linear("adaln_before_head.adaLN_modulation.1", "norm/modulation/linear"),
        *linear("lm_head", "out"),
        *linear(f"{theirs}.adaLN_modulation.1", f"{ours}/modulation/linear", layers),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out", layers),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up", layers),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down", layers),
        *norm(f"{theirs}.norm1", f"{ours}/attention_norm"),
        *norm(f"{theirs}.norm2", f"{ours}/feed_forward_norm"),
        *norm(f"{theirs}.attn.q_norm", f"{ours}/attention/query_norm"),
        *norm(f"{theirs}.attn.k_norm", f"{ours}/attention/key_norm"),
    ]
    for i, name in enumerate(("query", "key", "value")):
        entries += linear(f"{theirs}.attn.qkv", f"{ours}/attention/{name}", layers, (i, 3))
    return Table(tuple(entries), unused=(r"attn_mask",))
