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
from jaxtok.quantize.soft_assignment import soft_lookup
from jaxtok.quantize.vq import VectorQuantizer
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
      codes: K, codebook size.
      shape: size and switches of encoder and decoder; its `features` is the width of a code.
      codebook_weight: of `mean |sg(z) - e|^2`.
    """

    image_size: int = 256
    channels: int = 3
    codes: int = 1024
    shape: GridShape = SHAPE
    codebook_weight: float = 0.25

    @classmethod
    def imagenet_f16_256(cls) -> "MaskGITVQGAN":
        """The released size: 256 px, 256 tokens of 1024 codes."""
        return cls()

    @classmethod
    def tiny(cls) -> "MaskGITVQGAN":
        """8x8 digits as 4 x 4 tokens of 64 codes."""
        shape = dataclasses.replace(SHAPE, channels=16, multipliers=(1, 2), blocks=1, features=16, groups=4)
        return cls(image_size=8, channels=1, codes=64, shape=shape)

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return CodeSpace((self.codes,))

    @property
    def tokens(self) -> int:
        """N, tokens of an image of the usual size."""
        return (self.image_size // self.shape.factor) ** 2

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and decoder."""
        return ImageTokenizer(
            GridEncoder(self.shape, self.tokens, dtype),
            VectorQuantizer(
                self.codes, self.shape.features, commitment=1.0, codebook_weight=self.codebook_weight
            ),
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
        codes=config.get("codes", published.codes),
        shape=shape,
        codebook_weight=config.get("commitment_cost", published.codebook_weight),
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
