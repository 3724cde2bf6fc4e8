"""A convolutional autoencoder with Gaussian latents (arXiv 2112.10752), in the layout in which such networks
are published for PyTorch (`AutoencoderKL` of diffusers): what stands in front of tokenizers of latents.

    latents = scaling * mean(encoder(x)),   x = decoder(latents / scaling)        8 x 8 pixels per cell
"""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok import keys as random
from jaxtok.nn.images import to_float
from jaxtok.nn.linear import Dense
from jaxtok.quantize.gaussian import GaussianBottleneck
from jaxtok.systems.image.grid_table import GridNames, dense_entries, grid_entries
from jaxtok.tokenizers.grid import GridDecoder, GridEncoder, GridShape
from jaxtok.tokenizers.image_tokenizer import Images
from jaxtok.weights import Entry


class KLAutoencoder(nn.Module):
    """Network of `KLVAE`.

    Attributes:
      encoder, decoder: sizes of the halves.
      latents: channels of a latent.
      channels: of the image.
      dtype: computation dtype.
    """

    encoder: GridShape
    decoder: GridShape
    latents: int
    channels: int = 3
    dtype: Any = jnp.float32

    def setup(self):
        self.inner = GridEncoder(self.encoder, 0, self.dtype)
        self.moments_map = Dense(2 * self.latents)
        self.bottleneck = GaussianBottleneck(self.latents)
        self.inward = Dense(self.latents)
        self.outer = GridDecoder(self.decoder, self.channels, self.dtype)

    def __call__(self, images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        """Images after encoding and decoding."""
        return self.decode(self.moments(images)[0])

    def moments(
        self, images: Float[jax.Array, "B H W C"]
    ) -> tuple[Float[jax.Array, "B h w D"], Float[jax.Array, "B h w D"]]:
        """Means and log-variances of every cell."""
        size = self.encoder.cells((images.shape[1], images.shape[2]))
        moments = self.bottleneck.moments(self.moments_map(self.inner(images)))
        mean, log_variance = (x.reshape(-1, *size, self.latents) for x in moments)
        return mean, log_variance

    def decode(self, latents: Float[jax.Array, "B h w D"]) -> Float[jax.Array, "B H W C"]:
        """Float32 images around [-1, 1]."""
        batch, rows, columns, _ = latents.shape
        cells, factor = self.inward(latents).reshape(batch, rows * columns, -1), self.decoder.factor
        return self.outer(cells, (rows * factor, columns * factor))[0]


@dataclasses.dataclass(frozen=True)
class KLVAE:
    """Sizes of the autoencoder, and its use; variables are those of its parameters alone.

    Attributes:
      latents: channels of a latent.
      channels: image channels.
      width: of the finest level.
      multipliers: of the levels, from fine to coarse.
      blocks: residual blocks per level of the encoder; the decoder has one more.
      groups: of the group normalisations.
      scaling: of the latents.
      path: file of official weights.
    """

    latents: int = 16
    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    groups: int = 32
    scaling: float = 0.18215
    path: str = ""

    @property
    def halves(self) -> tuple[GridShape, GridShape]:
        """Sizes of encoder and decoder."""
        encoder = GridShape(
            self.width,
            self.multipliers,
            self.blocks,
            middle_attention=True,
            features=2 * self.latents,
            groups=self.groups,
        )
        return encoder, dataclasses.replace(encoder, blocks=self.blocks + 1, features=self.latents)

    @property
    def factor(self) -> int:
        """Pixels per cell along a side."""
        return self.halves[0].factor

    def network(self, dtype: Any = jnp.float32) -> KLAutoencoder:
        """The network."""
        return KLAutoencoder(*self.halves, self.latents, self.channels, dtype)

    def encode(
        self, params: Any, images: Images, key: jax.Array | None = None
    ) -> Float[jax.Array, "B h w D"]:
        """Scaled latents of uint8 or float [-1, 1] images: means, or draws with a key (a scalar, or one per
        example).
        """
        images = jnp.asarray(to_float(images))
        moments: Any = self.network().apply({"params": params}, images, method="moments")
        mean, log_variance = moments
        if key is not None:
            noise = random.normal(random.example_keys(key, mean.shape[0]), mean.shape[1:])
            mean = mean + jnp.exp(0.5 * log_variance) * noise
        return self.scaling * mean

    def decode(self, params: Any, latents: Float[jax.Array, "B h w D"]) -> Float[jax.Array, "B H W C"]:
        """Float images around [-1, 1] of scaled latents."""
        images = self.network().apply({"params": params}, latents / self.scaling, method="decode")
        return cast(jax.Array, images)

    def shapes(self) -> Any:
        """Parameters as shapes, nothing is allocated."""
        side = 2 * self.factor
        images = jax.ShapeDtypeStruct((1, side, side, self.channels), jnp.float32)
        return jax.eval_shape(self.network().init, jax.random.key(0), images)["params"]


def kl_vae_entries(vae: KLVAE, theirs: str = "", ours: str = "") -> list[Entry]:
    """All tensors, behind a prefix on either side."""
    shared: dict[str, Any] = {
        "middle": "mid_block.resnets.{j}",
        "middle_attention": "mid_block.attentions.0",
        "norm_out": "conv_norm_out",
        "shortcut": "conv_shortcut",
        "attention_norm": "group_norm",
        "attention_maps": ("to_q", "to_k", "to_v", "to_out.0"),
        "attention_linear": True,
    }
    down, up = "down_blocks.{l}", "up_blocks.{l}"
    inner = GridNames(f"{down}.resnets.{{j}}", f"{down}.downsamplers.0.conv", **shared)
    outer = GridNames(f"{up}.resnets.{{j}}", f"{up}.upsamplers.0.conv", coarse_first=True, **shared)
    encoder, decoder = vae.halves
    return [
        *grid_entries(encoder, "encoder", inner, f"{theirs}encoder", f"{ours}inner"),
        *grid_entries(decoder, "decoder", outer, f"{theirs}decoder", f"{ours}outer"),
        *dense_entries(f"{theirs}quant_conv", f"{ours}moments_map", 2 * vae.latents),
        *dense_entries(f"{theirs}post_quant_conv", f"{ours}inward", vae.latents),
    ]
