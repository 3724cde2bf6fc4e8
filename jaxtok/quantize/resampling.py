"""Resampling of grids, one small matrix per axis, as PyTorch does it (`align_corners=False`).

>>> import jax.numpy as jnp
>>> from jaxtok.quantize.resampling import averages, interpolation, resize
>>> x = jnp.arange(8.0).reshape(1, 4, 2)
>>> resize(x, (averages(4, 2),))[0, :, 0].tolist()
[1.0, 5.0]
>>> resize(x, (interpolation(4, 8, "linear"),)).shape
(1, 8, 2)
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxtok.quantize.routing import masked

Interpolation = Literal["cubic", "linear"]
_CUBIC = -0.75  # PyTorch's coefficient of the cubic convolution


@functools.lru_cache(maxsize=256)
def averages(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """Means of areas (adaptive average pooling): cell i covers floor(i s / t) .. ceil((i + 1) s / t)."""
    matrix = np.zeros((target, source), np.float32)
    for i in range(target):
        start, end = i * source // target, -(-(i + 1) * source // target)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


@functools.lru_cache(maxsize=256)
def interpolation(source: int, target: int, kind: str) -> Float[np.ndarray, "target source"]:
    """Weights of interpolation between the centres of cells; the border is repeated.

    Raises:
      ValueError: an unknown kind.
    """
    if kind not in ("cubic", "linear"):
        raise ValueError(f"interpolation={kind!r}; choose 'cubic' or 'linear'")
    a = _CUBIC
    near = lambda t: ((a + 2) * t - (a + 3)) * t * t + 1
    far = lambda t: ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    matrix = np.zeros((target, source), np.float64)
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        if kind == "linear":
            centre = max(centre, 0.0)
        left = math.floor(centre)
        t = centre - left
        if kind == "linear":
            weights = {left: 1 - t, left + 1: t}
        else:
            weights = {left - 1: far(t + 1), left: near(t), left + 1: near(1 - t), left + 2: far(2 - t)}
        for place, weight in weights.items():
            matrix[i, min(max(place, 0), source - 1)] += weight
    return matrix.astype(np.float32)


def resize(
    x: Float[jax.Array, "B *grid D"], matrices: tuple[Float[np.ndarray, "_ _"], ...]
) -> Float[jax.Array, "B ... D"]:
    """Applies one matrix to each axis of a grid, float32 at full precision.

    Args:
      x: the grid.
      matrices: one per axis of the grid. A square one is the identity (no axis is resampled to its own size)
        and is left out.
    """
    for axis, matrix in enumerate(matrices, start=1):
        if matrix.shape[0] != matrix.shape[1]:
            moved = jnp.tensordot(matrix, x, axes=((1,), (axis,)), precision="highest")
            x = jnp.moveaxis(moved, 0, axis)
    return x


def shares(mask: Bool[jax.Array, "B *grid"], shape: tuple[int, ...]) -> Float[jax.Array, "B cells"]:
    """How much of each cell of a coarser grid is real, float32 in [0, 1], cell by cell."""
    weights = mask.astype(jnp.float32)[..., None]
    return resize(weights, _averages(mask.shape[1:], shape)).reshape(mask.shape[0], -1)


def pool(
    x: Float[jax.Array, "B *grid D"], shape: tuple[int, ...], mask: Bool[jax.Array, "B *grid"] | None = None
) -> tuple[Float[jax.Array, "B cells D"], Bool[jax.Array, "B cells"] | None]:
    """Means of the real features of each cell of a coarser grid, cell by cell.

    Args:
      x: features.
      shape: of the coarser grid.
      mask: True where a feature is real.

    Returns:
      The means, 0 where a cell has no real feature, and which cells have one (None without a mask).
    """
    means = resize(masked(x, mask), _averages(x.shape[1:-1], shape))
    means = means.reshape(x.shape[0], -1, x.shape[-1])
    if mask is None:
        return means, None
    share = shares(mask, shape)
    return means / jnp.maximum(share, 1e-6)[..., None], share > 0


def _averages(sizes, targets):
    return tuple(averages(size, target) for size, target in zip(sizes, targets, strict=True))
