"""Images to patch tokens and back. A patch is flattened row, column, channel."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped


def patchify(images: Shaped[jax.Array, "B H W C"], patch: int) -> Shaped[jax.Array, "B N P"]:
    """Cuts images into patches, row by row: [B, H/p * W/p, p * p * C].

    Raises:
      ValueError: the image does not divide into patches.
    """
    batch, height, width, channels = images.shape
    if height % patch or width % patch:
        raise ValueError(
            f"images of {height}x{width} do not divide into {patch}x{patch} patches; resize or crop them "
            "first"
        )
    x = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def unpatchify(
    tokens: Float[jax.Array, "B N P"], height: int, width: int, patch: int
) -> Float[jax.Array, "B H W C"]:
    """Inverse of `patchify` for a grid of `height` x `width` patches."""
    batch = tokens.shape[0]
    x = tokens.reshape(batch, height, width, patch, patch, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * patch, width * patch, -1)


def pixel_shuffle(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 D"]:
    """Depth to space by 2 with channels ordered (c, row, column): [B, H, W, 4 c] -> [B, 2H, 2W, c]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, 2 * height, 2 * width, channels // 4)


def average_pool(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 C"]:
    """2x2 average pooling."""
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def nearest_upsample(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 C"]:
    """2x nearest-neighbour upsampling."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
