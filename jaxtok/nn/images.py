"""Pixels outside are uint8; inside a model they are float32 in [-1, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

Array = jax.Array | np.ndarray


def to_float(images: Shaped[Array, "*batch H W C"]) -> Float[Array, "*batch H W C"]:
    """uint8 to float32 in [-1, 1]; floats pass through.

    Raises:
      ValueError: another dtype, or concrete floats outside [-1, 1].
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; expected uint8, or floats in [-1, 1]")
    if isinstance(images, np.ndarray) and images.size and (images.min() < -1.001 or images.max() > 1.001):
        raise ValueError(
            f"pixels span [{images.min():.4g}, {images.max():.4g}]; expected uint8, or floats in [-1, 1]. "
            "Pass uint8, or rescale."
        )
    return images.astype(jnp.float32)


def to_uint8(images: Float[Array, "*batch H W C"]) -> UInt8[Array, "*batch H W C"]:
    """Floats to uint8: clipped to [-1, 1], rounded to nearest."""
    xp = np if isinstance(images, np.ndarray) else jnp
    return xp.round((xp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(xp.uint8)
