"""LlamaGen: a grid of codes that have few channels and unit length, which a plain language model can learn
(arXiv 2406.06525, official code FoundationVision/LlamaGen).

This file has its tokenizer, "VQ-8" and "VQ-16": a convolutional autoencoder whose 256 channels are mapped to
8 before they are compared with 16384 codes. The two 1x1 convolutions around the official quantizer are the
projections of ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Latents
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.systems.image.grid_table import GridNames, dense_entries, grid_entries
from jaxtok.systems.official import OfficialComponent
from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from jaxtok.tokenizers.image_tokenizer import Images, ImageTokenizer
from jaxtok.weights import Entry, Table

NAMES = {
    half: GridNames(
        block="conv_blocks.{l}.res.{j}",
        attention="conv_blocks.{l}.attn.{j}",
        middle_attention="mid.{m}",
        resample=f"conv_blocks.{{l}}.{resample}.conv",
        coarse_first=half == "decoder",
    )
    for half, resample in (("encoder", "downsample"), ("decoder", "upsample"))
}


def _halves(
    channels: int, blocks: int, features: int, encoder: tuple[int, ...], decoder: tuple[int, ...], **settings
) -> dict[str, Any]:
    """Both halves: attention at the coarsest level, and the decoder has a block more per level."""

    def half(multipliers, blocks):
        attention = (len(multipliers) - 1,)
        return GridShape(channels, multipliers, blocks, 2, attention, True, features, **settings)

    return {"encoder": half(encoder, blocks), "decoder": half(decoder, blocks + 1)}


@dataclasses.dataclass(frozen=True)
class LlamaGen:
    """Sizes of the system; every named size is a class method.

    Attributes:
      image_size: side in pixels that `decode` writes by default.
      channels: image channels.
      codes: K, codebook size.
      code_width: channels in which codes are compared.
      unit_codes: whether features and codes have unit length there.
      commitment: weight of `mean |z - sg(e)|^2`.
      entropy_weight: of the entropy of the assignments; the released models have none.
      encoder: size of the half that reads images.
      decoder: size of the half that writes them.
    """

    image_size: int = 256
    channels: int = 3
    codes: int = 16384
    code_width: int = 8
    unit_codes: bool = True
    commitment: float = 0.25
    entropy_weight: float = 0.0
    encoder: GridShape = GridShape()
    decoder: GridShape = GridShape(blocks=3)

    def __post_init__(self):
        if (self.encoder.factor, self.encoder.features) != (self.decoder.factor, self.decoder.features):
            raise ValueError(
                f"the encoder makes {self.encoder.features} channels per {self.encoder.factor} pixels, the "
                f"decoder reads {self.decoder.features} per {self.decoder.factor}; they must agree"
            )

    @classmethod
    def vq_16(cls, image_size: int = 256) -> "LlamaGen":
        """The released tokenizer with 16 x 16 pixels per token."""
        multipliers = (1, 1, 2, 2, 4)
        return cls(image_size, **_halves(128, 2, 256, multipliers, multipliers))

    @classmethod
    def vq_8(cls, image_size: int = 256) -> "LlamaGen":
        """The released tokenizer with 8 x 8 pixels per token."""
        multipliers = (1, 2, 2, 4)
        return cls(image_size, **_halves(128, 2, 256, multipliers, multipliers))

    @classmethod
    def tiny(cls) -> "LlamaGen":
        """8x8 digits as 4 x 4 tokens of 64 codes; trains in minutes on two CPU cores."""
        halves = _halves(16, 1, 32, (1, 2), (1, 2), groups=4)
        return cls(8, 1, 64, 8, **halves)

    @property
    def space(self) -> CodeSpace:
        """Alphabet of one token."""
        return CodeSpace((self.codes,))

    @property
    def tokens(self) -> int:
        """N, tokens of an image of the usual size."""
        return (self.image_size // self.encoder.factor) ** 2

    def tokenizer(self, dtype: Any = jnp.float32) -> ImageTokenizer:
        """Encoder, quantizer and decoder."""
        return ImageTokenizer(
            GridEncoder(self.encoder, self.tokens, dtype),
            VectorQuantizer(
                self.codes,
                self.encoder.features,
                self.code_width,
                commitment=self.commitment,
                metric="cosine" if self.unit_codes else "euclidean",
                entropy_weight=self.entropy_weight,
            ),
            GridDecoder(self.decoder, self.channels, dtype),
            (self.image_size, self.image_size),
        )

    def encode(self, variables: Any, images: Images) -> Latents:
        """Codes of uint8 or float [-1, 1] images [B, H, W, C]; pure, for any variables of the tokenizer."""
        return cast(Latents, self.tokenizer().apply(variables, images, method="encode"))

    def decode(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Float images around [-1, 1] of latents or codes at `size` (height, width) pixels; pure."""
        return cast(jax.Array, self.tokenizer().apply(variables, latents, size, method="decode"))

    def shapes(self) -> dict[str, Any]:
        """Variables of the "tokenizer" as shapes, nothing is allocated."""
        images = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, self.channels), jnp.float32)
        return {"tokenizer": jax.eval_shape(self.tokenizer().init, jax.random.key(0), images)}

    @staticmethod
    def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
        """What `jaxtok.convert` needs to know, see `official_components`."""
        return official_components(config)


def from_official(config: Mapping[str, Any]) -> LlamaGen:
    """Our configuration from official constructor arguments.

    Args:
      config: "model_args" (the fields of the official `ModelArgs`), "image_size", and "ch" and
        "num_res_blocks", which the official code fixes. What is left out is as in VQ-16.

    Raises:
      ValueError: sizes that contradict each other, see `GridShape` and `LlamaGen`.
    """
    published, a = LlamaGen.vq_16(), config.get("model_args", {})
    shape = published.encoder
    return LlamaGen(
        image_size=config.get("image_size", published.image_size),
        codes=a.get("codebook_size", published.codes),
        code_width=a.get("codebook_embed_dim", published.code_width),
        unit_codes=a.get("codebook_l2_norm", published.unit_codes),
        commitment=a.get("commit_loss_beta", published.commitment),
        entropy_weight=a.get("entropy_loss_ratio", published.entropy_weight),
        **_halves(
            config.get("ch", shape.channels),
            config.get("num_res_blocks", shape.blocks),
            a.get("z_channels", shape.features),
            tuple(a.get("encoder_ch_mult", shape.multipliers)),
            tuple(a.get("decoder_ch_mult", published.decoder.multipliers)),
        ),
    )


def official_components(config: Mapping[str, Any] | None) -> dict[str, OfficialComponent]:
    """Module, shapes and table of the official component "model", the tokenizer."""
    model = LlamaGen.vq_16() if config is None else from_official(config)
    table = Table(
        (
            *grid_entries(model.encoder, "encoder", NAMES["encoder"]),
            *grid_entries(model.decoder, "decoder", NAMES["decoder"]),
            *dense_entries("quant_conv", "quantizer/inward", model.encoder.features),
            *dense_entries("post_quant_conv", "quantizer/outward", model.code_width),
            Entry("quantize.embedding.weight", "quantizer/codebook"),
        ),
        # The last 65536 codes of training, from which the official code reports usage.
        unused=(r"quantize\.codebook_used",),
    )
    return {
        "model": OfficialComponent(
            "tokenizer", model.tokenizer(), model.shapes()["tokenizer"], table, "quant_conv.weight"
        )
    }
