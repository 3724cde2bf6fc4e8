"""MaskGIT-VQGAN: images as a grid of one code of 1024 per 16 x 16 pixels (arXiv 2202.04200), in the layout
in which it was published for PyTorch with TiTok (arXiv 2406.07550, official code bytedance/1d-tokenizer).

TiTok's first stage predicts its codes, and the pixels of TiTok's released models come out of its decoder,
which also takes a distribution over codes per cell, see `decode_soft`. The quantizer of that code weighs the
term that moves the codes by 0.25, not the term that moves the features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import CodeSpace, Latents
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.soft_assignment import soft_lookup
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.grid_table import GridNames, grid_entries
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.weights import Entry, Table

SHAPE = GridShape(window=1, use_bias=False, shortcut="branch", down="pool", unit_range=True)

ENCODER_NAMES = GridNames(block="down.{l}.block.{j}", resample="down.{l}.downsample_conv")
DECODER_NAMES = GridNames(block="up.{l}.block.{j}", resample="up.{l}.upsample_conv")


@dataclasses.dataclass(frozen=True)
class MaskGITVQGAN(ImageSystem):
    """Sizes of the tokenizer; both halves have the same.

    Attributes:
      image_size: side in pixels that `decode` writes by default.
      channels: image channels.
      quantizer: what makes codes of features; any that makes codes.
      shape: size and switches of encoder and decoder; its `features` is the width of a code.
    """

    image_size: int = 256
    channels: int = 3
    quantizer: QuantizerConfig = VQConfig(codes=1024, commitment=1.0, codebook_weight=0.25)
    shape: GridShape = SHAPE

    def __post_init__(self):
        self.quantizer.code_space(self.shape.features)  # raises where latents are continuous

    @classmethod
    def imagenet_f16_256(cls) -> "MaskGITVQGAN":
        """The released size: 256 px, 256 tokens of 1024 codes."""
        return cls()

    @classmethod
    def tiny(cls) -> "MaskGITVQGAN":
        """8x8 digits as 4 x 4 tokens of 64 codes."""
        shape = dataclasses.replace(SHAPE, channels=16, multipliers=(1, 2), blocks=1, features=16, groups=4)
        quantizer = VQConfig(codes=64, commitment=1.0, codebook_weight=0.25)
        return cls(image_size=8, channels=1, quantizer=quantizer, shape=shape)

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return self.quantizer.code_space(self.shape.features)

    @property
    def codes(self) -> int:
        """K, size of the codebook whose vectors a mean of codes is made of, see `decode_soft`.

        Raises:
          ValueError: a quantizer without such a codebook.
        """
        q = self.quantizer
        plain = isinstance(q, VQConfig) and q.slots == 1 and not (q.code_width or q.affine or q.revive_below)
        if not isinstance(q, VQConfig) or not plain or (q.learning, q.metric) != ("gradient", "euclidean"):
            raise ValueError(
                f"{q} has no codebook of code vectors, of which a mean could be decoded; use kind 'vq' with "
                "slots 1, code_width 0, metric 'euclidean', learning 'gradient', without affine and revival"
            )
        return q.codes

    @property
    def tokens(self) -> int:
        """N, tokens of an image of the usual size."""
        return (self.image_size // self.shape.factor) ** 2

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and decoder."""
        return ImageTokenizer(
            GridEncoder(self.shape, self.tokens, dtype),
            self.quantizer.build(self.shape.features),
            GridDecoder(self.shape, self.channels, dtype),
            (self.image_size, self.image_size),
        )

    def encode_images(self, variables: Any, images: Images) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return cast(Latents, self.tokenizer().apply(variables, images, method="encode"))

    def decode_images(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes at `size` (height, width) pixels; pure."""
        return cast(jax.Array, self.tokenizer().apply(variables, latents, size, method="decode"))

    def decode_soft(
        self, variables: Any, logits: Float[jax.Array, "B N K"], size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images of a distribution over codes per cell: the decoder of `softmax(logits) @ codebook`,
        through which gradients reach whoever made the logits.

        Raises:
          ValueError: see `codes`.
        """
        values = soft_lookup(variables["params"]["quantizer"]["codebook"], logits)
        return self.decode_images(variables, Latents(values=values), size)

    def shapes(self) -> dict[str, Any]:
        """Variables of the "tokenizer" as shapes, nothing is allocated."""
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        return {"tokenizer": jax.eval_shape(self.tokenizer().init, jax.random.key(0), images)}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


def from_official(config: Mapping[str, Any]) -> MaskGITVQGAN:
    """Our configuration from official constructor arguments.

    Args:
      config: "conf" (the arguments of the official encoder and decoder), "codes", "commitment_cost" and
        "image_size". What is left out is as in the released size.

    Raises:
      ValueError: sizes that contradict each other, see `GridShape`.
    """
    published = MaskGITVQGAN.imagenet_f16_256()
    conf, shape = config.get("conf", {}), published.shape
    multipliers = tuple(conf.get("channel_mult", shape.multipliers))
    if conf.get("num_resolutions", len(multipliers)) != len(multipliers):
        raise ValueError(
            f"num_resolutions={conf['num_resolutions']} differs from the length of channel_mult={multipliers}"
        )
    shape = dataclasses.replace(
        shape,
        channels=conf.get("hidden_channels", shape.channels),
        multipliers=multipliers,
        blocks=conf.get("num_res_blocks", shape.blocks),
        middle=conf.get("num_res_blocks", shape.middle),  # the official network has as many there
        features=conf.get("z_channels", shape.features),
    )
    return MaskGITVQGAN(
        image_size=config.get("image_size", conf.get("resolution", published.image_size)),
        channels=conf.get("num_channels", published.channels),
        quantizer=VQConfig(
            codes=config.get("codes", published.codes),
            commitment=1.0,  # the official term on features has no weight of its own
            codebook_weight=config.get("commitment_cost", 0.25),
        ),
        shape=shape,
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the one official component, "model"."""
    model = MaskGITVQGAN.imagenet_f16_256() if config is None else from_official(config)
    table = Table(
        (
            *grid_entries(model.shape, "encoder", ENCODER_NAMES),
            *grid_entries(model.shape, "decoder", DECODER_NAMES),
            Entry("quantize.embedding.weight", "quantizer/codebook"),
        )
    )
    return {
        "model": OfficialComponent(
            "tokenizer",
            model.tokenizer(),
            model.shapes()["tokenizer"],
            table,
            "quantize.embedding.weight",
        )
    }


SYSTEM = MaskGITVQGAN
