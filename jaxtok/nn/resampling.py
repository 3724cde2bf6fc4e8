"""Residual 2x down- and up-sampling of DC-AE (arXiv 2410.10733): a convolution beside a parameter-free
shortcut.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.patches import average_pool, nearest_upsample, pixel_shuffle


class DCDown(nn.Module):
    """`conv3x3_stride2(x) + average_pool(x)`, same width.

    The shortcut of DC-AE, space-to-depth followed by the mean over consecutive groups of four channels, is
    exactly 2x2 average pooling when the width stays the same.

    Attributes:
      dtype: computation dtype.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 C"]:
        if x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(
                f"a grid of {x.shape[1]}x{x.shape[2]} cells cannot be halved; use an image with an even "
                "patch grid"
            )
        conv = nn.Conv(x.shape[-1], (3, 3), strides=2, padding=1, dtype=self.dtype, name="conv")
        return conv(x) + average_pool(x)


class DCUp(nn.Module):
    """`pixel_shuffle(conv3x3(x)) + nearest_upsample(x)`, same width.

    Attributes:
      dtype: computation dtype.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 C"]:
        conv = nn.Conv(4 * x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name="conv")
        return pixel_shuffle(conv(x)) + nearest_upsample(x)
