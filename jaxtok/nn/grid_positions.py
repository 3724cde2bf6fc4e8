"""Positions of a grid of tokens that are added to them, fixed or learned."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

PositionKind = Literal["sincos", "learned"]
Scaling = Literal["absolute", "interpolate"]


def sincos_grid(rows: int, columns: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Sines and cosines of both coordinates of every cell (MoCo v3, arXiv 2104.02057): [sin a, cos a, sin b,
    cos b], a quarter of the channels each, float32 [rows, columns, width].

    As in the official code a is the coordinate that the first axis counts.

    Raises:
      ValueError: a width that does not divide by 4.
    """
    if width % 4:
        raise ValueError(f"width={width} must divide by 4: sine and cosine of two coordinates")
    rates = temperature ** (-np.arange(width // 4) / (width // 4))
    first, second = (x.reshape(-1, 1) * rates for x in np.indices((rows, columns), np.float64))
    channels = np.concatenate([np.sin(first), np.cos(first), np.sin(second), np.cos(second)], axis=-1)
    return channels.reshape(rows, columns, width).astype(np.float32)


def aligned_weights(cells: int, wanted: int) -> np.ndarray:
    """Linear interpolation from a row of cells to another number, the first and last of both at the same
    places, as PyTorch's `align_corners=True`: float32 [wanted, cells], rows sum to 1.
    """
    places = np.linspace(0, cells - 1, wanted) if wanted > 1 else np.zeros(1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0).astype(np.float32)


class GridPositions(nn.Module):
    """One vector per cell of a grid of one or two axes.

    Attributes:
      grid: cells per axis of the largest grid.
      width: D.
      kind: "sincos" of two axes, which no training changes (it lives in the collection "constants", so that
        files can bring their own), or "learned": one table per axis, summed.
      scaling: what smaller grids take: "absolute", the first cells of every axis, or "interpolate", the whole
        table at their resolution, corners on corners.
      deviation: of learned positions at first.
    """

    grid: tuple[int, ...]
    width: int
    kind: str = "sincos"
    scaling: str = "absolute"
    deviation: float = 0.02

    def setup(self):
        if self.kind == "sincos":
            if len(self.grid) != 2:
                raise ValueError(f"kind='sincos' needs a grid of two axes, not {self.grid}; use 'learned'")
            rows, columns = self.grid
            fixed = lambda: jnp.asarray(sincos_grid(rows, columns, self.width))
            self.table = self.variable("constants", "positions", fixed).value
        elif self.kind == "learned":
            shape = (len(self.grid), max(self.grid), self.width)
            init = nn.initializers.normal(self.deviation)
            self.table = self.param("positions", init, shape, jnp.float32)
        else:
            raise ValueError(f"kind={self.kind!r}; choose 'sincos' or 'learned'")

    def __call__(self, size: tuple[int, ...]) -> Float[jax.Array, "N D"]:
        """Vectors of the cells of a grid, row by row, float32.

        Raises:
          ValueError: another number of axes, or with "absolute" a grid that is larger than the table.
        """
        too_large = any(cells > most for cells, most in zip(size, self.grid))
        if len(size) != len(self.grid) or (too_large and self.scaling == "absolute"):
            raise ValueError(
                f"a grid of {'x'.join(map(str, size))} cells, but positions are there for "
                f"{'x'.join(map(str, self.grid))}; resize the image, or set scaling='interpolate'"
            )
        if self.kind == "sincos":
            return self._fit(self.table, size).reshape(-1, self.width)
        total: Any = 0.0
        for axis, cells in enumerate(size):
            own = self._fit(self.table[axis, : self.grid[axis]], (cells,))
            total = total + own.reshape([cells if a == axis else 1 for a in range(len(size))] + [self.width])
        return total.reshape(-1, self.width)

    def _fit(self, table: jax.Array, size: tuple[int, ...]) -> jax.Array:
        if self.scaling == "interpolate":
            for axis, cells in enumerate(size):
                weights = aligned_weights(table.shape[axis], cells)
                table = jnp.moveaxis(jnp.tensordot(weights, table, (1, axis), precision="highest"), 0, axis)
            return table
        return table[tuple(slice(cells) for cells in size)]
