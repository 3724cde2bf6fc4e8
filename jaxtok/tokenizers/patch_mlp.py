"""The smallest image autoencoder: every patch on its own, through a small network in and out.

A token sees its patch and nothing else, so what a quantizer loses shows directly in that patch. For comparing
quantizers, not for compressing images.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import RMSNorm
from jaxtok.nn.patches import patchify, unpatchify


class PatchEncoder(nn.Module):
    """Patches to features.

    Attributes:
      tokens: N, patches of an image.
      patch: side in pixels.
      width: D, of the features.
      hidden: width of the hidden layers.
      layers: number of hidden layers.
      dtype: computation dtype.
    """

    tokens: int
    patch: int
    width: int
    hidden: int
    layers: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B N D"]:
        """Encodes float images in [-1, 1].

        Raises:
          ValueError: images that do not divide into patches.
        """
        x = patchify(images, self.patch)
        for i in range(self.layers):
            x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name=f"hidden_{i}")(x))
        x = RMSNorm(dtype=self.dtype, name="norm")(x)
        return Dense(self.width, dtype=self.dtype, name="out")(x)


class PatchDecoder(nn.Module):
    """Embedded latents to patches.

    Attributes:
      patch: side in pixels.
      hidden: width of the hidden layers.
      layers: number of hidden layers.
      channels: of the images.
      dtype: computation dtype.
    """

    patch: int
    hidden: int
    layers: int = 2
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[jax.Array, "B N D"], size: tuple[int, int], train: bool = False
    ) -> tuple[Float[jax.Array, "B H W C"], dict[str, jax.Array]]:
        """Decodes to `size` = (height, width) pixels, float32 and not clipped; no features.

        Raises:
          ValueError: another number of patches than latents.
        """
        del train
        height, width = size
        if height % self.patch or width % self.patch or height * width != latents.shape[1] * self.patch**2:
            raise ValueError(
                f"{latents.shape[1]} patches of {self.patch}x{self.patch} do not make {height}x{width} pixels"
            )
        x = latents.astype(self.dtype)
        for i in range(self.layers):
            x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name=f"hidden_{i}")(x))
        pixels = Dense(self.patch**2 * self.channels, dtype=self.dtype, name="pixels")(x)
        return unpatchify(
            pixels.astype(jnp.float32), height // self.patch, width // self.patch, self.patch
        ), {}
