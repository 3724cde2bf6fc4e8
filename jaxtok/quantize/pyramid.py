"""A pyramid of grids: how the cells of coarser scales are made out of a grid, and what they add to it.

    down_s(x) = means of areas,   up_s(e) = phi_s(interpolated e),   phi_s(h) = (1 - rho) h + rho conv3(h)

(VAR, arXiv 2404.02905, and `HierarchicalVQ` of `vector-quantize-pytorch`.) Nothing here is quantized; see
`jaxtok.quantize.multi_scale`.

    >>> import jax
    >>> from jaxtok.quantize.pyramid import Pyramid
    >>> pyramid = Pyramid(scales=(1, 2, 4), width=8, phis=0)
    >>> x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    >>> cells, _ = pyramid.down(x, 1)
    >>> cells.shape, pyramid.apply({}, cells, 1, method="up").shape, pyramid.layout.tokens
    ((2, 4, 8), (2, 4, 4, 8), 21)
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxtok.codes import Layout
from jaxtok.quantize.resampling import Interpolation, interpolation, pool, resize, shares
from jaxtok.quantize.routing import masked


def phi_of_scale(scales: int, phis: int) -> tuple[int, ...]:
    """Which of the shared convolutions each scale uses in VAR: the nearest of evenly spread ticks."""
    edge = 1 / (3 * phis) if phis == 4 else 1 / (2 * phis)
    ticks = np.linspace(edge, 1 - edge, phis)
    return tuple(int(np.argmin(np.abs(ticks - i / max(scales - 1, 1)))) for i in range(scales))


class Pyramid(nn.Module):
    """Scales of a grid and the maps between them.

    Attributes:
      scales: size of each scale, coarse to fine: a tuple with one number per axis, or one number for all.
      width: D of the features.
      axes: of a grid: 1, 2 or 3.
      grid: size of the features' grid; () for that of the last scale.
      residual_ratio: rho of phi, in [0, 1].
      phis: number of convolutions, shared by neighbouring scales; 0 for none (phi is the identity).
      phi_by_scale: which of them each scale uses; () for `phi_of_scale`.
      interpolation: "cubic" or "linear".
    """

    scales: tuple[int | tuple[int, ...], ...]
    width: int
    axes: int = 2
    grid: tuple[int, ...] = ()
    residual_ratio: float = 0.5
    phis: int = 4
    phi_by_scale: tuple[int, ...] = ()
    interpolation: Interpolation = "cubic"

    @property
    def layout(self) -> Layout:
        """The scales along the token axis."""
        shapes = tuple((s,) * self.axes if isinstance(s, int) else tuple(s) for s in self.scales)
        return Layout(sum(math.prod(shape) for shape in shapes), shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features' grid."""
        return self.grid or self.layout.scales[-1]

    def setup(self):
        self.check()
        self.phi = [
            nn.Conv(self.width, (3,) * self.axes, padding=1, dtype=jnp.float32, precision="highest")
            for _ in range(self.phis)
        ]

    @nn.nowrap
    def check(self) -> None:
        """Raises a ValueError if the attributes do not fit."""
        shapes = self.layout.scales
        if not 1 <= self.axes <= 3:
            raise ValueError(f"axes={self.axes}; grids have 1, 2 or 3")
        if not shapes or any(len(shape) != self.axes or min(shape) < 1 for shape in shapes):
            raise ValueError(f"scales={self.scales} must be positive sizes of grids with axes={self.axes}")
        if any(a > b for pair in itertools.pairwise(shapes) for a, b in zip(*pair, strict=True)):
            raise ValueError(f"scales={self.scales} must not shrink; order them from coarse to fine")
        if len(self.shape) != self.axes:
            raise ValueError(f"grid={self.grid} must have one size for each of axes={self.axes}")
        if not 0 <= self.residual_ratio <= 1:
            raise ValueError(f"residual_ratio={self.residual_ratio} must be in [0, 1]")
        places = self.phi_by_scale
        if places and (len(places) != len(shapes) or not 0 <= min(places) <= max(places) < self.phis):
            raise ValueError(
                f"phi_by_scale={places} must name one of phis={self.phis} (counted from 0) for each of "
                f"{len(shapes)} scales"
            )

    @nn.nowrap
    def features(
        self, z: Float[jax.Array, "B *grid D"], mask: jax.Array | None = None
    ) -> Float[jax.Array, "B *grid D"]:
        """Features as float32, 0 where they are not real.

        Raises:
          ValueError: a grid of another size, or another mask.
        """
        if z.shape[1:-1] != self.shape:
            raise ValueError(
                f"features on a grid of {z.shape[1:-1]}, but the quantizer is for {self.shape}; set grid= "
                f"(default: the last of scales={self.scales})"
            )
        if mask is not None and mask.shape != z.shape[:-1]:
            raise ValueError(f"mask of shape {mask.shape} for features {z.shape}; it must be {z.shape[:-1]}")
        return masked(z.astype(jnp.float32), mask)

    @nn.nowrap
    def down(
        self, x: Float[jax.Array, "B *grid D"], scale: int, mask: Bool[jax.Array, "B *grid"] | None = None
    ) -> tuple[Float[jax.Array, "B m D"], Bool[jax.Array, "B m"] | None]:
        """Cells of a scale, and which of them have a real feature, see `resampling.pool`."""
        return pool(x, self.layout.scales[scale], mask)

    def up(self, cells: Float[jax.Array, "B m D"], scale: int) -> Float[jax.Array, "B *grid D"]:
        """What the cells of a scale add to the grid."""
        source = self.layout.scales[scale]
        h = cells.reshape(cells.shape[0], *source, cells.shape[-1])
        pairs = zip(source, self.shape, strict=True)
        h = resize(h, tuple(interpolation(a, b, self.interpolation) for a, b in pairs))
        if not self.phis:
            return h
        phi = self.phi[(self.phi_by_scale or phi_of_scale(len(self.scales), self.phis))[scale]]
        return (1 - self.residual_ratio) * h + self.residual_ratio * phi(h)

    def decompose(
        self, x: Float[jax.Array, "B *grid D"], mask: Bool[jax.Array, "B *grid"] | None = None
    ) -> tuple[Float[jax.Array, "B M D"], Bool[jax.Array, "B M"] | None]:
        """Cells of all scales, each of what the ones before leave (a Laplacian pyramid if phi is the
        identity), and which of them have a real feature.
        """
        cells, real = [], []
        for i in range(len(self.scales)):
            pooled, there = self.down(x, i, mask)
            x = x - self.up(pooled, i)
            cells.append(pooled)
            real.append(there)
        return jnp.concatenate(cells, axis=1), None if mask is None else jnp.concatenate(real, axis=1)

    @nn.nowrap
    def real_cells(self, mask: Bool[jax.Array, "B *grid"], scale: int) -> Bool[jax.Array, "B m"]:
        """Which cells of a scale have a real feature, bool."""
        return shares(mask, self.layout.scales[scale]) > 0
