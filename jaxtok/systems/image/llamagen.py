"""LlamaGen: a grid of codes that have few channels and unit length, and a plain language model that reads
them row by row after a class or a caption (arXiv 2406.06525, official code FoundationVision/LlamaGen).

The tokenizers "VQ-8" and "VQ-16" are a convolutional autoencoder whose 256 channels are mapped to 8 before
they are compared with 16384 codes. The two 1x1 convolutions around the official quantizer are the projections
of ours. What is not here: the dropout of 0.1 with which the official language models were trained.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.config_files import replace_at
from jaxtok.nn.prefix_transformer import ClassPrefix, PrefixTransformer, TextPrefix
from jaxtok.nn.transformer import Remat
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.llamagen_table import language_model_table, tokenizer_table
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import set_aside
from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.weights import FrozenNetwork


def halves(
    channels: int, blocks: int, features: int, encoder: tuple[int, ...], decoder: tuple[int, ...], **settings
) -> dict[str, Any]:
    """Both halves: attention at the coarsest level, and the decoder has a block more per level."""

    def half(multipliers, blocks):
        attention = (len(multipliers) - 1,)
        return GridShape(channels, multipliers, blocks, 2, attention, True, features, **settings)

    return {"encoder": half(encoder, blocks), "decoder": half(decoder, blocks + 1)}


# Layers, heads and width of the language models, by their published names.
SIZES = {
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "XXXL": (48, 40, 2560),
    "1B": (22, 32, 2048),
    "3B": (24, 32, 3200),
    "7B": (32, 32, 4096),
}


@dataclasses.dataclass(frozen=True)
class LanguageModelShape:
    """Size of the language model.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      head_dim: width of a head; the width of a token is heads times head_dim.
      hidden: inner width of the feed-forward halves; 0 for the usual one, two thirds of four times the width,
        rounded up to a multiple of 256.
      rope_theta: base of the rotary frequencies.
      norm_epsilon: of the norms.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: layers per iteration of the layer scan.
    """

    layers: int = 12
    heads: int = 12
    head_dim: int = 64
    hidden: int = 0
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    remat: Remat = "none"
    unroll: int = 1

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def inner(self) -> int:
        """Inner width of the feed-forward halves."""
        return self.hidden or feed_forward_width(self.width)


def feed_forward_width(width: int, multiple: int = 256, factor: float = 1.0) -> int:
    """Two thirds of four times the width, times `factor`, rounded up to a multiple."""
    hidden = int(factor * int(2 * 4 * width / 3))
    return -(-hidden // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class LlamaGen(ImageSystem):
    """Sizes of the system; every named size is a class method.

    Attributes:
      image_size: side in pixels that `decode` writes by default.
      channels: image channels.
      quantizer: what makes codes of features; any that makes codes.
      encoder: size of the half that reads images.
      decoder: size of the half that writes them.
      prior: size of the language model.
      conditioning: what it is conditioned on: a "class", a "text" by features of a frozen encoder, or
        "nothing".
      classes: number of classes.
      null_class: whether "no class" is one more, which guidance needs.
      text_length: tokens of a caption.
      text_width: width of their features; T5-XL has 2048.
      null_rows: tokens that there is a "no text" for, of which a caption's number is used; 0 for as many.
      condition_dropout: share of the rows that train without class or text.
      settings: recommended sampler settings.
    """

    image_size: int = 256
    channels: int = 3
    quantizer: QuantizerConfig = VQConfig(codes=16384, code_width=8, metric="cosine")
    encoder: GridShape = GridShape()
    decoder: GridShape = GridShape(blocks=3)
    prior: LanguageModelShape = LanguageModelShape()
    conditioning: Literal["class", "text", "nothing"] = "class"
    classes: int = 1000
    null_class: bool = True
    text_length: int = 120
    text_width: int = 2048
    null_rows: int = 0
    condition_dropout: float = 0.1
    settings: AutoregressiveSettings = AutoregressiveSettings(guidance=3.0, top_k=2000)

    def __post_init__(self):
        self.quantizer.code_space(self.encoder.features)  # raises where latents are continuous
        if (self.encoder.factor, self.encoder.features) != (self.decoder.factor, self.decoder.features):
            raise ValueError(
                f"the encoder makes {self.encoder.features} channels per {self.encoder.factor} pixels, the "
                f"decoder reads {self.decoder.features} per {self.decoder.factor}; they must agree"
            )

    @classmethod
    def vq_16(cls, image_size: int = 256) -> "LlamaGen":
        """The released tokenizer with 16 x 16 pixels per token."""
        multipliers = (1, 1, 2, 2, 4)
        return cls(image_size, **halves(128, 2, 256, multipliers, multipliers))

    @classmethod
    def vq_8(cls, image_size: int = 256) -> "LlamaGen":
        """The released tokenizer with 8 x 8 pixels per token."""
        multipliers = (1, 2, 2, 4)
        return cls(image_size, **halves(128, 2, 256, multipliers, multipliers))

    @classmethod
    def c2i(cls, size: str, image_size: int = 256) -> "LlamaGen":
        """A published language model of classes over VQ-16, "B" to "7B", with the settings of the official
        demonstration (guidance scale 4, top-k 2000).

        Raises:
          ValueError: an unknown size.
        """
        return dataclasses.replace(cls.vq_16(image_size), prior=_language_model(size))

    @classmethod
    def t2i(cls, size: str = "XL", image_size: int = 256) -> "LlamaGen":
        """A published language model of captions over VQ-16, with the settings of the official demonstration
        (guidance scale 7.5, top-k 1000).

        Raises:
          ValueError: an unknown size.
        """
        settings = AutoregressiveSettings(guidance=6.5, top_k=1000)
        return dataclasses.replace(cls.c2i(size, image_size), conditioning="text", settings=settings)

    @classmethod
    def tiny(cls) -> "LlamaGen":
        """8x8 digits as 4 x 4 tokens of 64 codes; trains in minutes on two CPU cores."""
        return cls(
            8,
            1,
            VQConfig(codes=64, code_width=8, metric="cosine"),
            **halves(16, 1, 32, (1, 2), (1, 2), groups=4),
            prior=LanguageModelShape(4, 4, 32, hidden=256, unroll=4),
            classes=10,
            settings=AutoregressiveSettings(guidance=3.0),
        )

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return self.quantizer.code_space(self.encoder.features)

    @property
    def tokens(self) -> int:
        """N, tokens of an image of the usual size."""
        return self.grid[0] * self.grid[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the codes of an image of the usual size."""
        return self.encoder.cells((self.image_size, self.image_size))

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and decoder."""
        return ImageTokenizer(
            GridEncoder(self.encoder, self.tokens, dtype),
            self.quantizer.build(self.encoder.features),
            GridDecoder(self.decoder, self.channels, dtype),
            (self.image_size, self.image_size),
        )

    def conditioner(self) -> ClassPrefix | TextPrefix | None:
        """What turns a class or a text into the first tokens."""
        width = self.prior.width
        if self.conditioning == "class":
            return ClassPrefix(self.classes, width, self.null_class)
        prefix = TextPrefix(self.text_length, self.text_width, width, self.null_rows)
        return prefix if self.conditioning == "text" else None

    def autoregressive(self, dtype: Any = jnp.float32) -> Prior:
        """The next-token prior."""
        shape = self.prior
        network = PrefixTransformer(
            self.space,
            self.grid,
            shape.layers,
            shape.heads,
            shape.head_dim,
            shape.inner,
            self.conditioner(),
            shape.rope_theta,
            shape.norm_epsilon,
            shape.remat,
            shape.unroll,
            dtype,
        )
        dropout = 0.0 if self.conditioning == "nothing" else self.condition_dropout
        return Prior(network, Autoregressive(self.space, dropout, self.settings))

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """See `ImageSystem`."""
        return "nothing" if self.conditioning == "nothing" else "labels"

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return cast(Latents, self.tokenizer().apply(variables, images, method="encode"))

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes at `size` (height, width) pixels; pure."""
        return cast(jax.Array, self.tokenizer().apply(variables, latents, size, method="decode"))

    priors = ("autoregressive",)

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `priors` by name.

        Raises:
          ValueError: another name.
        """
        if name not in self.priors:
            raise ValueError(f"prior {name!r}; choose one of {self.priors}")
        return self.autoregressive(dtype)

    def condition_on(self, given: jax.Array, mask: jax.Array | None = None) -> Condition | None:
        """The prior's condition, with "nothing" as the alternative that guidance needs.

        Args:
          given: labels int32 [B], or text features [B, T, E].
          mask: bool [B, T], which of the features are real.
        """
        conditioner = self.conditioner()
        if conditioner is None:
            return None
        if isinstance(conditioner, TextPrefix):
            return conditioner.condition(given, mask)
        return conditioner.condition(given)

    def class_condition(self, labels: jax.Array) -> Condition | None:
        """Condition of labels int32 [B]; None where the prior has none.

        Raises:
          ValueError: the prior is conditioned on a text.
        """
        if self.conditioning == "text":
            raise ValueError(
                "this prior is conditioned on a text, not on a class; use `condition_on` with its features"
            )
        return self.condition_on(labels)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition | None:
        """Condition of a training batch, for `PriorObjective`.

        Raises:
          ValueError: see `class_condition`.
        """
        del frozen
        return None if self.conditioning == "nothing" else self.class_condition(batch["label"])

    def networks(self, dtype: Any = jnp.float32) -> dict[str, FrozenNetwork]:
        """Frozen networks that the prior needs: none."""
        del dtype
        return {}

    def example_condition(self, batch: int = 1) -> Condition | None:
        """A condition of the right shape, for initialisation."""
        if self.conditioning == "text":
            return self.condition_on(jnp.zeros((batch, self.text_length, self.text_width)))
        return self.condition_on(jnp.zeros(batch, jnp.int32))

    def shapes(self) -> dict[str, Any]:
        """Variables of "tokenizer" and "autoregressive" as shapes, nothing is allocated."""
        key = jax.random.key(0)
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        latents = Latents(codes=jnp.zeros((1, self.tokens, self.space.slots), jnp.int32))
        prior = jax.eval_shape(self.autoregressive().init, key, latents, self.example_condition())
        return {
            "tokenizer": jax.eval_shape(self.tokenizer().init, key, images),
            "autoregressive": {"params": prior},
        }

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


def _language_model(size: str) -> LanguageModelShape:
    if size not in SIZES:
        raise ValueError(f"no language model {size!r}; there are {', '.join(SIZES)}")
    layers, heads, width = SIZES[size]
    return LanguageModelShape(layers, heads, width // heads)


# The official table of "no text" has these, whatever `cls_token_num` is.
OFFICIAL_NULL_ROWS = 120


def from_official(config: Mapping[str, Any]) -> LlamaGen:
    """Our configuration from official constructor arguments.

    Args:
      config: "model_args", the fields of the official `ModelArgs` of a tokenizer or, where it has
        "model_type", of a language model; for a tokenizer also "image_size", and "ch" and "num_res_blocks",
        which the official code fixes. What is left out is as in VQ-16 and in the official defaults.

    Raises:
      ValueError: sizes that contradict each other, see `GridShape` and `LlamaGen`; or of the language model a
        grid that is not square, a width that the heads do not divide, or grouped queries.
    """
    a = config.get("model_args", {})
    return _official_language_model(a) if "model_type" in a else _official_tokenizer(config, a)


def _official_tokenizer(config: Mapping[str, Any], a: Mapping[str, Any]) -> LlamaGen:
    published, quantizer = LlamaGen.vq_16(), VQConfig(codes=16384, code_width=8, metric="cosine")
    shape, unit = published.encoder, a.get("codebook_l2_norm", True)
    set_aside(a, "codebook_show_usage")  # a statistic of training
    return LlamaGen(
        image_size=config.get("image_size", published.image_size),
        quantizer=VQConfig(
            codes=a.get("codebook_size", quantizer.codes),
            code_width=a.get("codebook_embed_dim", quantizer.code_width),
            metric="cosine" if unit else "euclidean",
            commitment=a.get("commit_loss_beta", quantizer.commitment),
            entropy_weight=a.get("entropy_loss_ratio", quantizer.entropy_weight),
        ),
        **halves(
            config.get("ch", shape.channels),
            config.get("num_res_blocks", shape.blocks),
            a.get("z_channels", shape.features),
            tuple(a.get("encoder_ch_mult", shape.multipliers)),
            tuple(a.get("decoder_ch_mult", published.decoder.multipliers)),
        ),
    )


def _official_language_model(a: Mapping[str, Any]) -> LlamaGen:
    kind = a["model_type"]
    if kind not in ("c2i", "t2i"):
        raise ValueError(f"model_type={kind!r}; LlamaGen has 'c2i' and 't2i'")
    width, heads, block = a.get("dim", 4096), a.get("n_head", 32), a.get("block_size", 256)
    side = math.isqrt(block)
    if side * side != block:
        raise ValueError(f"block_size={block} must be the square of the rows of a grid")
    if width % heads:
        raise ValueError(f"dim={width} must divide by n_head={heads}")
    if a.get("n_kv_head") not in (None, heads):
        raise ValueError(
            f"n_kv_head={a['n_kv_head']} differs from n_head={heads}: the official code cannot sample such "
            "models, none was released, and none can be loaded"
        )
    set_aside(a, "initializer_range", "max_batch_size", "max_seq_len")  # fresh weights, and caches
    published = LlamaGen.c2i("B") if kind == "c2i" else LlamaGen.t2i("B")
    dropout = a.get("class_dropout_prob", published.condition_dropout)
    length = a.get("cls_token_num", published.text_length if kind == "t2i" else 1)
    if kind == "t2i" and not 1 <= length <= OFFICIAL_NULL_ROWS:
        raise ValueError(
            f"cls_token_num={length}: the official code has 1 to {OFFICIAL_NULL_ROWS} tokens of text"
        )
    return dataclasses.replace(
        published,
        image_size=side * published.encoder.factor,
        quantizer=replace_at(published.quantizer, "codes", a.get("vocab_size", published.space.size)),
        classes=a.get("num_classes", published.classes),
        null_class=dropout > 0,
        condition_dropout=dropout,
        text_length=length,
        null_rows=OFFICIAL_NULL_ROWS if kind == "t2i" else 0,
        text_width=a.get("caption_dim", published.text_width),
        prior=LanguageModelShape(
            a.get("n_layer", 32),
            heads,
            width // heads,
            feed_forward_width(width, a.get("multiple_of", 256), a.get("ffn_dim_multiplier") or 1.0),
            a.get("rope_base", published.prior.rope_theta),
            a.get("norm_eps", published.prior.norm_epsilon),
        ),
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model": a language model if the configuration has a
    "model_type", else a tokenizer.
    """
    model = LlamaGen.vq_16() if config is None else from_official(config)
    shapes = model.shapes()
    if config is not None and "model_type" in config.get("model_args", {}):
        network = model.autoregressive().network
        table = language_model_table(model.prior.layers, model.conditioning == "class")
        return {
            "model": OfficialComponent(
                "autoregressive", network, shapes["autoregressive"], table, "tok_embeddings.weight"
            )
        }
    table = tokenizer_table(model.encoder, model.decoder, model.tokenizer().quantizer.code_width)
    return {
        "model": OfficialComponent(
            "tokenizer", model.tokenizer(), shapes["tokenizer"], table, "quant_conv.weight"
        )
    }


SYSTEM = LlamaGen
