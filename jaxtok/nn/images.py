"""Pixels outside are uint8; inside a model they are float32 in [-1, 1]."""

from typing import Any

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


def model_images(
    images: Any, channels: int, value_range: tuple[int | float, int | float] | None = None
) -> Float[np.ndarray, "B H W C"]:
    """Images from a user as a model takes them: float32 in [-1, 1].

    Args:
      images: [B, H, W, C] uint8, or floats.
      channels: C of the model.
      value_range: what black and white are in floats; None for [-1, 1], which then need a negative value:
        images in [0, 1] would pass as washed-out ones.

    Raises:
      ValueError: another shape, dtype or range.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(
            f"images of shape {images.shape}: this model takes [B, H, W, {channels}]; add the axis of "
            "the batch, or convert grey and colour"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        if value_range is not None:
            raise ValueError(f"value_range={value_range} is about floats, and the images are {images.dtype}")
        return np.asarray(to_float(images))
    if not np.isfinite(images).all():
        raise ValueError("pixels are not finite; look at where the images come from")
    if value_range is not None:
        low, high = value_range
        if not low < high:
            raise ValueError(f"value_range={value_range}: black has to be below white")
        images = (images.astype(np.float32) - low) * (2 / (high - low)) - 1
    elif images.size and images.min() >= 0:
        raise ValueError(
            f"float pixels span [{images.min():.4g}, {images.max():.4g}] without a negative one: say whether "
            "they are in [0, 1] or [-1, 1] with value_range=(0, 1) or value_range=(-1, 1), or pass uint8"
        )
    return np.asarray(to_float(images))


def to_uint8(images: Float[Array, "*batch H W C"]) -> UInt8[Array, "*batch H W C"]:
    """Floats to uint8: clipped to [-1, 1], rounded to nearest."""
    xp = np if isinstance(images, np.ndarray) else jnp
    return xp.round((xp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(xp.uint8)
