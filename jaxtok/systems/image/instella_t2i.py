"""Instella-T2I: images of up to 1024 px as 128 tokens of binary latents, with a diffusion and an
autoregressive prior (arXiv 2506.21022, official code AMD-AIG-AIMA/Instella-T2I).

This file says what the system is: its sizes, how its parts are put together, and how official weights map
  onto them. How it is
trained and what is claimed about it stands in `experiments/image/instella_t2i.py`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.nn.conditioning import LayerwiseConditioner, TextConditioner
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.nn.llama import LlamaEncoder
from jaxtok.nn.llama_config import LlamaConfig
from jaxtok.nn.rope import RopeLayout
from jaxtok.nn.text import ByteEncoder
from jaxtok.nn.text_encoder import load_text_encoder, text_encoder_shapes
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.binary_diffusion import BinaryDiffusion, DiffusionSettings
from jaxtok.priors.contract import Prior
from jaxtok.quantize.binary import BinaryConfig
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.prior_shape import PriorShape
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import require_same, set_aside
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.tokenizers.query_vit import Coordinates, QueryDecoder, QueryEncoder, ViTShape
from jaxtok.weights import Entry, FrozenNetwork, Table, conv, dense, patch_dense, squeeze_leading

PRIORS = ("diffusion", "autoregressive")
_NO_LANGUAGE_MODEL = (
    "captions of this model go through a frozen language model; set --model.text.path to its folder"
)


@dataclasses.dataclass(frozen=True)
class TextShape:
    """Where the priors get their text from.

    Attributes:
      source: "bytes" (an encoder over caption bytes that is trained with the prior), "layers" (features of
        every layer of a frozen language model, made beforehand) or "none".
      length: text tokens; longer captions are cut.
      layers: blocks of the byte encoder.
      heads: its attention heads.
      head_dim: width of a head.
      width: of the frozen language model's features.
      path: folder of the frozen language model in Hugging Face format; needed to train and to sample.
    """

    source: Literal["bytes", "layers", "none"] = "bytes"
    length: int = 24
    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    width: int = 2048
    path: str = ""

    @property
    def language_model(self) -> LlamaConfig:
        """The sizes at `path`; without one those of AMD-OLMo-1B, which the released priors read."""
        if not self.path:
            return LlamaConfig.olmo_1b()
        return LlamaConfig.from_hugging_face(Path(self.path) / "config.json")


@dataclasses.dataclass(frozen=True)
class InstellaT2I(ImageSystem):
    """Sizes of the whole system; every named size is a class method.

    Attributes:
      image_size: side in pixels that `decode` writes by default.
      channels: image channels.
      patch: patch side in pixels.
      tokens: N, tokens per image.
      quantizer: what makes codes of features; the diffusion prior needs one that makes bits.
      encoder: size of the transformer that reads images.
      decoder: size of the transformer that writes them.
      scale: common coordinate range of all resolutions, in patches; None counts patches.
      rope_layout: rotary layout; the released weights need "instella".
      align_after: decoder block whose image tokens are aligned with a frozen vision encoder; None for off.
      align_width: width of those features.
      prior: size of the priors.
      text: where they get their text from.
      diffusion_settings: recommended sampler settings of the diffusion prior.
      autoregressive_settings: recommended sampler settings of the autoregressive prior.
    """

    image_size: int = 1024
    channels: int = 3
    patch: int = 16
    tokens: int = 128
    quantizer: QuantizerConfig = BinaryConfig(bits=64)
    encoder: ViTShape = ViTShape(12, 12, resample_after=(7,))
    decoder: ViTShape = ViTShape(16, 16, resample_after=(7,))
    scale: float | int | None = 64
    rope_layout: RopeLayout = "half"
    align_after: int | None = None
    align_width: int = 1024
    prior: PriorShape = PriorShape()
    text: TextShape = TextShape()
    diffusion_settings: DiffusionSettings = DiffusionSettings()
    autoregressive_settings: AutoregressiveSettings = AutoregressiveSettings()

    def __post_init__(self):
        self.quantizer.code_space(self.encoder.width)  # raises where latents are continuous

    @classmethod
    def tiny(cls) -> "InstellaT2I":
        """8x8 digits as 8 tokens of 16 bits; trains in minutes on two CPU cores."""
        vit = ViTShape(4, 2, 32, resample_after=(1,), axes_dims=(8, 12, 12), unroll=4)
        return cls(
            image_size=8,
            channels=1,
            patch=2,
            tokens=8,
            quantizer=BinaryConfig(bits=16),
            encoder=vit,
            decoder=vit,
            scale=None,
            prior=PriorShape(4, 4, 32, unroll=4),
            text=TextShape(),
        )

    @classmethod
    def small(
        cls, image_size: int = 32, tokens: int = 32, bits: int = 16, text_length: int = 64
    ) -> "InstellaT2I":
        """32x32 colour images as 32 tokens; hours on CPU."""
        vit = ViTShape(4, 4, 32, resample_after=(1,), axes_dims=(8, 12, 12), unroll=4)
        return cls(
            image_size=image_size,
            patch=4,
            tokens=tokens,
            quantizer=BinaryConfig(bits=bits),
            encoder=vit,
            decoder=vit,
            scale=image_size // 4,
            prior=PriorShape(6, 4, 64),
            text=TextShape(length=text_length, layers=3, heads=4),
        )

    @classmethod
    def shallow(cls, text_length: int = 64) -> "InstellaT2I":
        """`small` with a tokenizer of two blocks on large patches: recognisable pictures within ten minutes
        on two CPU cores, where a deeper one has hardly left the mean colours.
        """
        vit = ViTShape(2, 4, 32, axes_dims=(8, 12, 12), unroll=2)
        small = cls.small(text_length=text_length)
        return dataclasses.replace(small, patch=8, scale=4, encoder=vit, decoder=vit)

    @classmethod
    def bae_1024(cls, bits: int = 64) -> "InstellaT2I":
        """The released size: 128 tokens for 512 to 1024 px, priors of 16 layers of width 2048.

        The tokenizer recomputes its blocks: at 1024 px four images would keep 139 GB for the backward pass.
        """
        return cls(
            quantizer=BinaryConfig(bits=bits),
            rope_layout="instella",
            encoder=ViTShape(12, 12, resample_after=(7,), remat="full"),
            decoder=ViTShape(16, 16, resample_after=(7,), remat="full"),
            text=TextShape("layers", length=128, width=2048),
        )

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return self.quantizer.code_space(self.encoder.width)

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of the priors that this latent allows: bit-flip diffusion needs bits."""
        return PRIORS if self.space.is_binary else ("autoregressive",)

    # -- assembly --

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """The binary autoencoder ("BAE")."""
        coordinates = Coordinates(self.scale, self.rope_layout)
        return ImageTokenizer(
            QueryEncoder(self.encoder, self.tokens, self.patch, coordinates, dtype),
            self.quantizer.build(self.encoder.width),
            QueryDecoder(
                self.decoder,
                self.patch,
                self.channels,
                coordinates,
                self.align_after,
                self.align_width,
                dtype,
            ),
            (self.image_size, self.image_size),
        )

    def diffusion(self, dtype: Any = jnp.float32) -> Prior:
        """The bit-flip diffusion prior."""
        if not self.space.is_binary:
            raise ValueError(
                f"bit-flip diffusion needs tokens of bits, but those of quantizer "
                f"{self.quantizer.kind_name()!r} have levels {self.space.levels}; choose the autoregressive "
                "prior, or --model.quantizer:binary"
            )
        return Prior(
            self._network(causal=False, dtype=dtype), BinaryDiffusion(settings=self.diffusion_settings)
        )

    def autoregressive(self, dtype: Any = jnp.float32) -> Prior:
        """The next-token prior with independent heads per bit."""
        method = Autoregressive(self.space, settings=self.autoregressive_settings)
        return Prior(self._network(causal=True, dtype=dtype), method)

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `PRIORS` by name."""
        if name not in PRIORS:
            raise ValueError(f"prior {name!r}; choose one of {PRIORS}")
        return self.diffusion(dtype) if name == "diffusion" else self.autoregressive(dtype)

    def _network(self, causal: bool, dtype: Any) -> LatentTransformer:
        text, shape = self.text, self.prior
        conditioner = None
        if text.source == "bytes":
            conditioner = TextConditioner(ByteEncoder(text.layers, text.heads, text.head_dim, dtype=dtype))
        elif text.source == "layers":
            conditioner = LayerwiseConditioner()
        return LatentTransformer(
            self.space,
            self.tokens,
            shape.layers,
            shape.heads,
            shape.head_dim,
            causal=causal,
            timed=not causal,
            conditioner=conditioner,
            remat=shape.remat,
            unroll=shape.unroll,
            dtype=dtype,
        )

    # -- use --

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """See `ImageSystem`."""
        return "nothing" if self.text.source == "none" else "captions"

    @property
    def caption_reading(self) -> tuple[int, str]:
        """See `ImageSystem`."""
        return (0, "") if self.text.source == "none" else (self.text.length, self.text.path)

    def encode_images(self, variables: Any, images: jax.Array) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any tokenizer variables."""
        return cast(Latents, self.tokenizer().apply(variables, images, method="encode"))

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images of latents or codes at `size` (height, width) pixels; pure."""
        return cast(jax.Array, self.tokenizer().apply(variables, latents, size, method="decode"))

    def caption_condition(
        self, ids: jax.Array, mask: jax.Array, frozen: Mapping[str, Any] | None = None
    ) -> Condition | None:
        """The priors' condition of captions, with the empty caption as "no condition".

        Args:
          ids, mask: from `jaxtok.nn.caption_ids`, int32 and bool [B, T].
          frozen: "text", the variables of the frozen language model, if there is one.

        Raises:
          ValueError: captions go through a language model that is not there.
        """
        text = self.text
        if text.source == "none":
            return None
        null_ids, null_mask = (jnp.asarray(x) for x in caption_ids([""], ids.shape[1], text.path))
        if text.source == "bytes":
            return Condition(ids, mask, null=Condition(null_ids, null_mask))
        if frozen is None or "text" not in frozen:
            raise ValueError(_NO_LANGUAGE_MODEL)
        dtype = jax.tree.leaves(frozen["text"])[0].dtype
        encoder = LlamaEncoder(text.language_model, dtype=dtype)
        null = Condition(encoder.apply(frozen["text"], null_ids, null_mask), null_mask, batch_axis=1)
        return Condition(encoder.apply(frozen["text"], ids, mask), mask, null=null, batch_axis=1)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition | None:
        """Condition of a training batch, for `PriorObjective`.

        Raises:
          ValueError: the batch has no captions, or see `caption_condition`.
        """
        if self.text.source == "none":
            return None
        if "text" not in batch:
            raise ValueError(
                "this prior is conditioned on captions, but the batches have none; set --data.text-length"
            )
        return self.caption_condition(batch["text"], batch["text_mask"], frozen)

    def networks(self, dtype: Any = jnp.float32) -> dict[str, FrozenNetwork]:
        """Frozen networks that the priors need: the language model, if any, kept and run in `dtype`."""
        text = self.text
        if text.source != "layers":
            return {}

        def load():
            if not text.path:
                raise ValueError(_NO_LANGUAGE_MODEL)
            return load_text_encoder(text.path, dtype)[1]

        return {"text": FrozenNetwork(load, lambda: text_encoder_shapes(text.language_model, dtype))}

    def example_condition(self, batch: int = 1) -> Condition | None:
        """A condition of the right shape, for initialisation."""
        text = self.text
        mask = jnp.ones((batch, text.length), bool)
        if text.source == "bytes":
            return Condition(jnp.zeros((batch, text.length), jnp.int32), mask)
        if text.source == "layers":
            shape = (self.prior.layers, batch, text.length, text.width)
            return Condition(jnp.zeros(shape, jnp.float32), mask, batch_axis=1)
        return None

    def example_latents(self, batch: int = 1) -> Latents:
        """Latents of the right shape, for initialisation."""
        return Latents(codes=jnp.zeros((batch, self.tokens, self.space.slots), jnp.int32))

    def shapes(self) -> dict[str, Any]:
        """Variables of every component as shapes, nothing is allocated: "tokenizer", "diffusion",
        "autoregressive".
        """
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        key = jax.random.key(0)
        shapes = {"tokenizer": jax.eval_shape(self.tokenizer().init, {"params": key}, images)}
        for name in self.priors:
            init = self.prior_named(name).init
            params = jax.eval_shape(init, key, self.example_latents(), self.example_condition())
            shapes[name] = {"params": params}
        return shapes

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


# -- official weights --


def from_official(config: Mapping[str, Any]) -> InstellaT2I:
    """Our configuration from official constructor arguments.

    Args:
      config: "bae" and "prior" dictionaries (the arguments of the official modules), and "image_size",
        "scale" (side in pixels of the image whose patch indices are the common coordinate range, None for
        integer coordinates). What is left out is as in the released size.

    Raises:
      ValueError: arguments that contradict each other, see `ViTShape`.
    """
    published = InstellaT2I.bae_1024()
    bae, prior = config.get("bae", {}), config.get("prior", {})

    patch = bae.get("patch_size", published.patch)
    # The official `set_scale` takes pixels and keeps patches, also parts of them.
    pixels = config.get("scale", published.scale * published.patch if published.scale else None)
    scale = None if pixels is None else pixels / patch

    axes = list(bae.get("axes_dims_rope", published.encoder.axes_dims))
    require_same(config, "axis_dims_rope", axes, "axes_dims_rope of the tokenizer")

    def half(side: str, default: ViTShape) -> ViTShape:
        resample = {"encoder": "downsample_idx", "decoder": "upsample_idx"}[side]
        return ViTShape(
            layers=bae.get(f"{side}_layers", default.layers),
            heads=bae.get(f"{side}_num_heads", default.heads),
            head_dim=bae.get(f"{side}_head_dim", default.head_dim),
            resample_after=tuple(bae.get(resample, default.resample_after)),
            axes_dims=tuple(axes),
            remat=default.remat,
        )

    def first(*names: str, default: int) -> int:
        return next((int(prior[name]) for name in names if name in prior), default)

    # The official priors take rotary axes, and turn nothing by them.
    set_aside(prior, "axes_dims_rope")
    repa = bae.get("repa_index")
    shape = PriorShape(
        layers=first("num_layers", default=published.prior.layers),
        heads=first("heads", "num_attention_heads", default=published.prior.heads),
        head_dim=first("head_dim", "attention_head_dim", default=published.prior.head_dim),
    )
    text_width = first("text_dim", "text_cond_dim", default=published.text.width)
    return dataclasses.replace(
        published,
        image_size=config.get("image_size", published.image_size),
        channels=bae.get("in_channels", published.channels),
        patch=patch,
        tokens=bae.get("num_latent_tkns", first("num_img_tkns", default=published.tokens)),
        quantizer=BinaryConfig(
            bits=bae.get("codebook_size", first("in_channels", default=published.space.slots)),
            temperature=bae.get("train_temp", 0.1),
        ),
        encoder=half("encoder", published.encoder),
        decoder=half("decoder", published.decoder),
        scale=scale,
        align_after=repa if bae.get("use_repa") else None,
        align_width=bae.get("repa_dim", published.align_width),
        prior=shape,
        text=TextShape("layers", length=published.text.length, width=text_width),
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Modules, shapes and tables of the official components "bae", "diff" and "ar"."""
    model = InstellaT2I.bae_1024() if config is None else from_official(config)
    shapes = model.shapes()
    return {
        "bae": OfficialComponent(
            "tokenizer",
            model.tokenizer(),
            shapes["tokenizer"],
            _tokenizer_table(model),
            "encoder.patch_embedder.weight",
        ),
        "diff": OfficialComponent(
            "diffusion",
            model.diffusion().network,
            shapes["diffusion"],
            _prior_table(model, causal=False),
            "norm_out.linear.weight",
        ),
        "ar": OfficialComponent(
            "autoregressive",
            model.autoregressive().network,
            shapes["autoregressive"],
            _prior_table(model, causal=True),
            "split_token",
        ),
    }


def _linear(theirs: str, ours: str, layers: range | None = None, bias: bool = True) -> list[Entry]:
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", dense, layers)]
    return [*entries, Entry(f"{theirs}.bias", f"{ours}/bias", indices=layers)] if bias else entries


def _attention(theirs: str, ours: str, layers: range) -> list[Entry]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    entries = [
        e for a, b in names.items() for e in _linear(f"{theirs}.{a}", f"{ours}/{b}", layers, bias=False)
    ]
    norms = {"norm_q": "query_norm", "norm_k": "key_norm"}
    return entries + [
        Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/scale", indices=layers) for a, b in norms.items()
    ]


def _tokenizer_table(model: InstellaT2I) -> Table:
    entries = [
        Entry(
            "encoder.patch_embedder.weight", "encoder/patch/kernel", patch_dense(model.patch, model.channels)
        ),
        Entry("encoder.patch_embedder.bias", "encoder/patch/bias"),
        Entry("encoder.latent_tokens", "encoder/queries", squeeze_leading(1)),
        Entry("encoder.norm_out.weight", "encoder/norm/scale"),
        *_linear("encoder.proj_out", "encoder/out"),
        *_linear("quantizer.proj.0", "quantizer/projection"),
        Entry("quantizer.embed", "quantizer/embedding"),
        Entry("decoder.input_layer.0.weight", "decoder/in_norm/scale"),
        *_linear("decoder.input_layer.1", "decoder/in"),
        Entry("decoder.mask_tokens", "decoder/mask", squeeze_leading(2)),
        Entry("decoder.norm_out.weight", "decoder/norm/scale"),
        *_linear("to_pixel", "decoder/pixels"),
    ]
    for side, shape, official, own in (
        ("encoder", model.encoder, "down_layers", "down"),
        ("decoder", model.decoder, "up_layers", "up"),
    ):
        first = 0
        for step, layers in enumerate(shape.segments):
            if layers:
                entries += _tokenizer_blocks(side, f"{side}/stack_{step}/block", range(first, first + layers))
            first += layers
        for step in range(len(shape.resample_after)):
            entries += [
                Entry(f"{side}.{official}.{step}.conv.weight", f"{side}/{own}_{step}/conv/kernel", conv),
                Entry(f"{side}.{official}.{step}.conv.bias", f"{side}/{own}_{step}/conv/bias"),
            ]
    # The alignment head exists only in checkpoints trained with it and is not needed to encode or decode.
    return Table(tuple(entries), unused=(r"decoder\.repa_proj\..*",))


def _tokenizer_blocks(side: str, ours: str, layers: range) -> list[Entry]:
    theirs = f"{side}.transformer_blocks.{{i}}"
    feed_forward = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    return [
        Entry(f"{theirs}.input_layernorm.weight", f"{ours}/attention_norm/scale", indices=layers),
        Entry(f"{theirs}.post_attention_layernorm.weight", f"{ours}/feed_forward_norm/scale", indices=layers),
        *_attention(f"{theirs}.attn", f"{ours}/attention", layers),
        *(
            entry
            for a, b in feed_forward.items()
            for entry in _linear(f"{theirs}.mlp.{a}", f"{ours}/feed_forward/{b}", layers, bias=False)
        ),
    ]


def _prior_table(model: InstellaT2I, causal: bool) -> Table:
    layers, theirs, ours = range(model.prior.layers), "transformer_blocks.{i}", "stack/block"
    feed_forward = "mlp" if causal else "ff"
    entries = [
        *_linear("x_embedder", "embedding/bits"),
        *_linear("proj_out", "out"),
        *_attention(f"{theirs}.attn", f"{ours}/attention", layers),
        *_linear(f"{theirs}.proj_cond", f"{ours}/context", layers),
        *_linear(f"{theirs}.{feed_forward}.net.0.proj", f"{ours}/feed_forward/up", layers),
        *_linear(f"{theirs}.{feed_forward}.net.2", f"{ours}/feed_forward/down", layers),
        Entry(f"{theirs}.pos_emb", f"{ours}/positions", squeeze_leading(1), layers),
    ]
    if causal:
        entries += [
            Entry("split_token", "start", squeeze_leading(2)),
            Entry(f"{theirs}.input_layernorm.weight", f"{ours}/attention_norm/scale", indices=layers),
            Entry(
                f"{theirs}.post_attention_layernorm.weight", f"{ours}/feed_forward_norm/scale", indices=layers
            ),
            Entry("norm_out.weight", "norm/scale"),
        ]
        # The official autoregressive model owns a time embedding that it never uses.
        return Table(tuple(entries), unused=(r"time_embed\..*",))
    entries += [
        *_linear("time_embed.linear_1", "time/linear_1"),
        *_linear("time_embed.linear_2", "time/linear_2"),
        *_linear(f"{theirs}.norm1.linear", f"{ours}/modulation/linear", layers),
        *_linear("norm_out.linear", "norm/modulation/linear"),
    ]
    return Table(tuple(entries))


SYSTEM = InstellaT2I
