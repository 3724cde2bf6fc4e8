"""VAR: an image as scales of codes, coarse to fine, and a transformer that predicts a whole scale at a time
(arXiv 2404.02905, official code FoundationVision/VAR).

The tokenizer is a convolutional autoencoder with a multi-scale residual quantizer between two convolutions.
The prior is `jaxtok.nn.scale_transformer`. A system of a single scale, a plain grid of codes, has a
next-token prior in its place ("raster"), of as many parameters, to compare with.
"""

import dataclasses
from collections import ChainMap
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import CodeSpace, Condition, Latents, Layout
from jaxtok.nn.prefix_transformer import ClassPrefix, PrefixTransformer
from jaxtok.nn.scale_transformer import ScaleTransformer
from jaxtok.nn.transformer import Remat
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.priors.next_scale import NextScale, NextScaleSettings
from jaxtok.quantize.multi_scale import multi_scale_vq
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.llamagen import halves
from jaxtok.systems.image.var_table import tokenizer_table, transformer_table
from jaxtok.systems.official import OfficialComponent
from jaxtok.systems.official_config import require_same, set_aside
from jaxtok.systems.quantizers.multi_scale import var_component
from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.tokenizers.scale_grid import ScaleCodec, ScaleGridQuantizer
from jaxtok.weights import FrozenNetwork

# Sides of the scales by the number of pixels.
SCALES = {256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}
# The published transformers: pixels, and whether all layers share their modulation. The number is the depth.
SIZES = {
    "d16": (256, False),
    "d20": (256, False),
    "d24": (256, False),
    "d30": (256, False),
    "d36": (512, True),
}


@dataclasses.dataclass(frozen=True)
class ScalePriorShape:
    """Size of the prior.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      head_dim: width of a head; the width of a token is heads times head_dim.
      hidden: inner width of the feed-forward halves; 0 for four times the width.
      cosine: whether attention compares by cosine.
      shared_modulation: whether all layers share their modulation.
      norm_epsilon: of the norms.
      drop_path: probability that a half of the last block is skipped in training; it grows from 0 in the
        first.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: layers per iteration of the layer scan.
    """

    layers: int = 16
    heads: int = 16
    head_dim: int = 64
    hidden: int = 0
    cosine: bool = True
    shared_modulation: bool = False
    norm_epsilon: float = 1e-6
    drop_path: float = 0.0
    remat: Remat = "none"
    unroll: int = 1

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def inner(self) -> int:
        """Inner width of the feed-forward halves."""
        return self.hidden or 4 * self.width

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """Per layer; () for none."""
        return tuple(np.linspace(0, self.drop_path, self.layers).tolist()) if self.drop_path else ()


@dataclasses.dataclass(frozen=True)
class VAR(ImageSystem):
    """Sizes of the system; every named size is a class method.

    Attributes:
      image_size: side in pixels.
      channels: image channels.
      scales: sides of the scales, coarse to fine; the last is that of the encoder's grid.
      codes: K, codebook size, shared by all scales.
      unit_codes: whether codes are compared by cosine; what they stand for keeps its length.
      commitment: weight of the distance from features to sums of codes.
      residual_ratio: part of the convolution in phi, see `Pyramid`.
      phis: number of those convolutions; 0 for none.
      window: of the convolutions around the quantizer.
      encoder: size of the half that reads images.
      decoder: size of the half that writes them.
      prior: size of the transformer.
      classes: number of classes; 0 for a prior without a condition.
      condition_dropout: share of the rows that train without class.
      settings: recommended sampler settings.
    """

    image_size: int = 256
    channels: int = 3
    scales: tuple[int, ...] = SCALES[256]
    codes: int = 4096
    unit_codes: bool = False
    commitment: float = 0.25
    residual_ratio: float = 0.5
    phis: int = 4
    window: int = 3
    encoder: GridShape = GridShape(160, (1, 1, 2, 2, 4), 2, 2, (4,), True, 32)
    decoder: GridShape = GridShape(160, (1, 1, 2, 2, 4), 3, 2, (4,), True, 32)
    prior: ScalePriorShape = ScalePriorShape()
    classes: int = 1000
    condition_dropout: float = 0.1
    settings: NextScaleSettings = NextScaleSettings(1.5, top_k=900, top_p=0.96)

    def __post_init__(self):
        grid = self.encoder.cells((self.image_size, self.image_size))
        if not self.scales or self.scales[-1] != grid[0]:
            raise ValueError(
                f"the last of scales={self.scales} must be {grid[0]}, the rows of the grid of "
                f"{self.image_size} pixels"
            )
        if (self.encoder.factor, self.encoder.features) != (self.decoder.factor, self.decoder.features):
            raise ValueError(
                f"the encoder makes {self.encoder.features} channels per {self.encoder.factor} pixels, the "
                f"decoder reads {self.decoder.features} per {self.decoder.factor}; they must agree"
            )

    @classmethod
    def published(cls, size: str) -> "VAR":
        """A published transformer, "d16" to "d36", and its tokenizer, with the settings of the official
        evaluation (guidance 1.5, top-k 900, top-p 0.96).

        Raises:
          ValueError: an unknown size.
        """
        if size not in SIZES:
            raise ValueError(f"no transformer {size!r}; there are {', '.join(SIZES)}")
        depth, (pixels, shared) = int(size[1:]), SIZES[size]
        prior = ScalePriorShape(depth, depth, shared_modulation=shared, drop_path=0.1 * depth / 24)
        return cls(pixels, scales=SCALES[pixels], prior=prior)

    @classmethod
    def tiny(cls) -> "VAR":
        """8x8 digits as 1 + 4 + 16 tokens of 64 codes; trains in minutes on two CPU cores."""
        return cls(
            8,
            1,
            (1, 2, 4),
            64,
            unit_codes=True,
            phis=2,
            **halves(16, 1, 32, (1, 2), (1, 2), groups=4),
            prior=ScalePriorShape(4, 4, 32, unroll=4),
            classes=10,
            settings=NextScaleSettings(1.5),
        )

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return CodeSpace((self.codes,))

    @property
    def layout(self) -> Layout:
        """The scales along the token axis."""
        return self._scales().layout

    @property
    def tokens(self) -> int:
        """N, tokens of all scales."""
        return self.layout.tokens

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of the priors: one for scales, another one for a single scale."""
        return ("next_scale",) if len(self.scales) > 1 else ("raster",)

    # -- assembly --

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and decoder."""
        return ImageTokenizer(
            GridEncoder(self.encoder, self.scales[-1] ** 2, dtype),
            self._quantizer(),
            GridDecoder(self.decoder, self.channels, dtype),
            (self.image_size, self.image_size),
        )

    def _quantizer(self) -> ScaleGridQuantizer:
        return ScaleGridQuantizer(self._scales(), self.window)

    def _scales(self):
        return multi_scale_vq(
            self.scales,
            self.codes,
            self.encoder.features,
            metric="cosine" if self.unit_codes else "euclidean",
            own_length=True,
            commitment=self.commitment,
            residual_ratio=self.residual_ratio,
            phis=self.phis,
        )

    def prior_codec(self, variables: Any) -> ScaleCodec:
        """What the prior reads of the tokenizer with these variables."""
        own = {name: part["quantizer"] for name, part in variables.items() if "quantizer" in part}
        return ScaleCodec(self._quantizer(), own)

    def conditioner(self) -> ClassPrefix | None:
        """What turns a class into a vector."""
        deviation = float(np.sqrt(1 / (3 * self.prior.width)))
        return ClassPrefix(self.classes, self.prior.width, deviation=deviation) if self.classes else None

    def next_scale(self, dtype: Any = jnp.float32) -> Prior:
        """The next-scale prior."""
        shape, features = self.prior, self.encoder.features
        network = ScaleTransformer(
            self.space,
            self.layout,
            features,
            shape.layers,
            shape.heads,
            shape.head_dim,
            shape.inner,
            self.conditioner(),
            shape.cosine,
            shape.shared_modulation,
            shape.norm_epsilon,
            shape.remat,
            shape.unroll,
            dtype,
        )
        dropout = self.condition_dropout if self.classes else 0.0
        method = NextScale(
            self.space, self.layout, features, dropout, shape.drop_paths, settings=self.settings
        )
        return Prior(network, method)

    def raster(self, dtype: Any = jnp.float32) -> Prior:
        """A next-token prior of a single scale, row by row: LlamaGen's network with the depth, width and
        number of parameters of the next-scale prior.

        What that one spends on modulation, 6 D^2 per layer, goes to the feed-forward half: the class is the
        first token here and modulates nothing.

        Raises:
          ValueError: several scales.
        """
        side = self.scales[-1]
        if len(self.scales) > 1:
            raise ValueError(f"scales={self.scales}: a raster prior reads a single scale")
        shape = self.prior
        modulation = 0 if shape.shared_modulation else 6
        hidden = round((2 * shape.inner + modulation * shape.width) / 3)
        network = PrefixTransformer(
            self.space,
            (side, side),
            shape.layers,
            shape.heads,
            shape.head_dim,
            hidden,
            self.conditioner(),
            remat=shape.remat,
            unroll=shape.unroll,
            dtype=dtype,
        )
        s, dropout = self.settings, self.condition_dropout if self.classes else 0.0
        settings = AutoregressiveSettings(s.guidance, s.temperature, 0, s.top_k, s.top_p, s.min_p)
        return Prior(network, Autoregressive(self.space, dropout, settings))

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        """One of `priors` by name.

        Raises:
          ValueError: another name.
        """
        if name not in self.priors:
            raise ValueError(f"prior {name!r}; with scales={self.scales} choose one of {self.priors}")
        return self.next_scale(dtype) if name == "next_scale" else self.raster(dtype)

    # -- use --

    @property
    def conditioned_on(self) -> Literal["labels", "captions", "nothing"]:
        """See `ImageSystem`."""
        return "labels" if self.classes else "nothing"

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return cast(Latents, self.tokenizer().apply(variables, images, method="encode"))

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images around [-1, 1] of latents, or of the codes of all scales or the first ones; pure."""
        return cast(jax.Array, self.tokenizer().apply(variables, latents, size, method="decode"))

    def class_condition(self, labels: jax.Array) -> Condition | None:
        """Condition of labels int32 [B], with "no class" as null; None where the prior has none."""
        conditioner = self.conditioner()
        return None if conditioner is None else conditioner.condition(labels)

    def condition(self, batch: Mapping[str, jax.Array], frozen: Mapping[str, Any]) -> Condition | None:
        """Condition of a training batch, for `PriorObjective`."""
        del frozen
        return None if not self.classes else self.class_condition(batch["label"])

    def networks(self, dtype: Any = jnp.float32) -> dict[str, FrozenNetwork]:
        """Frozen networks that the prior needs: none but the tokenizer."""
        del dtype
        return {}

    def shapes(self) -> dict[str, Any]:
        """Variables of "tokenizer" and of the prior as shapes, nothing is allocated."""
        key = jax.random.key(0)
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        latents = Latents(codes=jnp.zeros((1, self.tokens, 1), jnp.int32))
        condition = self.class_condition(jnp.zeros(1, jnp.int32))
        shapes = {"tokenizer": jax.eval_shape(self.tokenizer().init, key, images)}
        for name in self.priors:
            shapes[name] = {"params": jax.eval_shape(self.prior_named(name).init, key, latents, condition)}
        return shapes

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


def from_official(config: Mapping[str, Any]) -> VAR:
    """Our configuration from official constructor arguments.

    Args:
      config: "args" (or "vae", beside a transformer), those of the official `VQVAE`; "var", those of the
        official `VAR`, where there is one; and "ch_mult" and "num_res_blocks", which the official code fixes.
        What is left out is as in the published models.

    Raises:
      ValueError: scales of the transformer that the tokenizer does not have, a width that the heads do not
        divide, or sizes that contradict each other, see `GridShape` and `VAR`.
    """
    a = config.get("vae", config.get("args", {}))
    published = VAR()
    shape = published.encoder
    scales = tuple(a.get("v_patch_nums", published.scales))
    multipliers = tuple(config.get("ch_mult", shape.multipliers))
    both = halves(
        a.get("ch", shape.channels),
        config.get("num_res_blocks", shape.blocks),
        a.get("z_channels", shape.features),
        multipliers,
        multipliers,
    )
    ratio, share = abs(a.get("quant_resi", published.residual_ratio)), a.get("share_quant_resi", 4)
    for part in (config, config.get("var", {})):
        require_same(part, "patch_nums", list(scales), "v_patch_nums of the tokenizer")
    count = a.get("default_qresi_counts", 0) or len(scales)
    set_aside(a, "test_mode")
    image_size = scales[-1] * both["encoder"].factor
    require_same(
        config, "image_size", image_size, f"v_patch_nums={scales} of {both['encoder'].factor} pixels"
    )
    return dataclasses.replace(
        published,
        image_size=image_size,
        scales=scales,
        codes=a.get("vocab_size", published.codes),
        unit_codes=a.get("using_znorm", published.unit_codes),
        commitment=a.get("beta", published.commitment),
        residual_ratio=ratio,
        phis=(share or count) if ratio > 1e-6 else 0,
        window=a.get("quant_conv_ks", published.window),
        **both,
        **_transformer(config["var"]) if "var" in config else {},
    )


def _transformer(a: Mapping[str, Any]) -> dict[str, Any]:
    set_aside(a, "flash_if_available", "fused_if_available")  # kernels
    depth = a.get("depth", 16)
    width, heads = a.get("embed_dim", 64 * depth), a.get("num_heads", depth)
    if width % heads:
        raise ValueError(f"embed_dim={width} must divide by num_heads={heads}")
    prior = ScalePriorShape(
        depth,
        heads,
        width // heads,
        round(width * a.get("mlp_ratio", 4.0)),
        a.get("attn_l2_norm", True),
        a.get("shared_aln", False),
        a.get("norm_eps", 1e-6),
        a.get("drop_path_rate", 0.0),
    )
    return {
        "prior": prior,
        "classes": a.get("num_classes", 1000),
        "condition_dropout": a.get("cond_drop_rate", 0.1),
    }


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """The components "vae" and "model", a tokenizer and a transformer; of a configuration of a tokenizer
    alone "model". Without a configuration VAR-d16 and its tokenizer.
    """
    config = {"var": {}} if config is None else config
    model = from_official(config)
    own = {"v_patch_nums": model.scales, "vocab_size": model.codes, "z_channels": model.encoder.features}
    shapes, arguments = model.shapes(), ChainMap(config.get("vae", config.get("args", {})), own)
    quantizer = var_component({"args": arguments}).table
    tokenizer = OfficialComponent(
        "tokenizer",
        model.tokenizer(),
        shapes["tokenizer"],
        tokenizer_table(model.encoder, model.decoder, quantizer),
        "quantize.embedding.weight",
    )
    if "var" not in config:
        return {"model": tokenizer}
    network: ScaleTransformer = model.next_scale().network
    shape = model.prior
    table = transformer_table(shape.layers, shape.cosine, shape.heads, shape.shared_modulation)
    transformer = OfficialComponent(
        "next_scale", network, shapes["next_scale"], table, "blocks.0.attn.mat_qkv.weight"
    )
    return {"model": transformer, "vae": tokenizer}


SYSTEM = VAR
