"""Multi-scale residual quantization of a grid (VAR, arXiv 2404.02905): coarse grids of codes first, each
scale coding what the coarser ones left.

    r = z,   and for every scale s:
    k_s = nearest(pool(r, s)),   h_s = phi_s(up(e[k_s])),   r -= h_s,   out += h_s

`pool` is area averaging, `up` bicubic (or bilinear) interpolation, both as in PyTorch (`align_corners=False`,
cubic coefficient -0.75), phi_s(h) = (1 - rho) h + rho conv3x3(h), shared by neighbouring scales. All scales
share one codebook. Codes stand one scale behind the other, and any number of leading scales decodes to a
coarser grid.

    >>> import jax
    >>> from jaxtok.quantize.multi_scale import MultiScaleQuantizer
    >>> quantizer = MultiScaleQuantizer(codes=64, width=8, scales=(1, 2, 4))
    >>> z = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.values.shape, out.codes.shape, quantizer.layout.scales
    ((2, 4, 4, 8), (2, 21, 1), ((1, 1), (2, 2), (4, 4)))
    >>> coarse = quantizer.apply(variables, out.codes[:, :5], method="decode")
"""

import itertools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Layout, Quantized
from jaxtok.kernels import lookup
from jaxtok.kernels.nearest_code.api import Metric
from jaxtok.quantize.routing import straight_through
from jaxtok.quantize.vq import VectorQuantizer

Interpolation = Literal["bicubic", "bilinear"]


def area_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] averages: cell i covers floor(i s / t) .. ceil((i + 1) s / t)."""
    matrix = np.zeros((target, source), np.float32)
    for i in range(target):
        start, end = i * source // target, -(-(i + 1) * source // target)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def interpolation_matrix(source: int, target: int, kind: Interpolation) -> np.ndarray:
    """[target, source] weights of interpolation between pixel centres; the border is repeated."""
    a = -0.75
    near = lambda t: ((a + 2) * t - (a + 3)) * t * t + 1
    far = lambda t: ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    matrix = np.zeros((target, source), np.float64)
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        if kind == "bilinear":
            centre = max(centre, 0.0)
        left = math.floor(centre)
        t = centre - left
        if kind == "bilinear":
            weights = {left: 1 - t, left + 1: t}
        else:
            weights = {left - 1: far(t + 1), left: near(t), left + 1: near(1 - t), left + 2: far(2 - t)}
        for place, weight in weights.items():
            matrix[i, min(max(place, 0), source - 1)] += weight
    return matrix.astype(np.float32)


def resize(
    x: Float[jax.Array, "B H W D"], rows: np.ndarray, columns: np.ndarray
) -> Float[jax.Array, "B h w D"]:
    """Applies one matrix to each axis of a grid, at full precision."""
    return jnp.einsum("ih,bhwd,jw->bijd", rows, x, columns, precision="highest")


def phi_of_scale(scales: int, phis: int) -> tuple[int, ...]:
    """Which of the shared convolutions each scale uses: the nearest of evenly spread ticks."""
    edge = 1 / (3 * phis) if phis == 4 else 1 / (2 * phis)
    ticks = np.linspace(edge, 1 - edge, phis)
    return tuple(int(np.argmin(np.abs(ticks - i / max(scales - 1, 1)))) for i in range(scales))


class MultiScaleQuantizer(nn.Module):
    """Multi-scale residual quantizer of grids [B, H, W, D].

    Attributes:
      codes: K, size of the shared codebook.
      width: D.
      scales: side (or (height, width)) of each grid, coarse to fine; the last one is the grid of the
        features.
      learning: of the codebook, "gradient" or "ema".
      metric: what nearest means.
      commitment: weight of the distance from the features to the (fixed) sum of each prefix of scales,
        averaged over scales; the opposite distance, which moves codebook and phi, has weight 1.
      residual_ratio: rho of phi.
      phis: number of convolutions, shared by neighbouring scales; 0 for none (phi is the identity).
      phi_by_scale: which of them each scale uses; () for `phi_of_scale`.
      interpolation: of `up`.
      decay: of a codebook learned by "ema".
      revive_below: see `VectorQuantizer`.
    """

    codes: int
    width: int
    scales: tuple[int | tuple[int, int], ...]
    learning: Literal["gradient", "ema"] = "gradient"
    metric: Metric = "euclidean"
    commitment: float = 0.25
    residual_ratio: float = 0.5
    phis: int = 4
    phi_by_scale: tuple[int, ...] = ()
    interpolation: Interpolation = "bicubic"
    decay: float = 0.99
    revive_below: float = 0.0

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels."""
        return CodeSpace((self.codes,))

    @property
    def layout(self) -> Layout:
        """The scales along the token axis."""
        shapes = tuple((s, s) if isinstance(s, int) else tuple(s) for s in self.scales)
        return Layout(sum(h * w for h, w in shapes), shapes)

    def setup(self):
        shapes = self.layout.scales
        if any(a[0] > b[0] or a[1] > b[1] for a, b in itertools.pairwise(shapes)):
            raise ValueError(f"scales={self.scales} must grow")
        self.book = self._book()
        self.phi = [
            nn.Conv(self.width, (3, 3), padding=1, dtype=jnp.float32, precision="highest")
            for _ in range(self.phis)
        ]

    def __call__(
        self,
        z: Float[jax.Array, "B H W D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
    ) -> Quantized:
        """Quantizes a grid.

        Args:
          z: features, of the last scale's height and width.
          train, key, temperature: not used; nothing is drawn.

        Returns:
          `Quantized` with values [B, H, W, D], codes [B, N, 1] of all scales, losses "commitment" and
          "codebook" (see the attributes), and statistics "counts" [K], "scale_counts" [S, K] and, for "ema",
          "sums" [K, D].

        Raises:
          ValueError: a grid of another size.
        """
        del train, key, temperature
        z = self._check(z)
        residual, total = jax.lax.stop_gradient(z), jnp.zeros_like(z)
        codes, commitment, codebook, statistics = [], 0.0, 0.0, []
        for i in range(len(self.scales)):
            pooled = self._pool(residual, i)
            index = self.book.encode(pooled)
            statistics.append(self.book.quantize(self.book.inner(pooled), index).statistics)
            codes.append(index)
            part = self._grid(index, i)
            total = total + part
            residual = residual - jax.lax.stop_gradient(part)
            commitment = commitment + jnp.mean(jnp.square(z - jax.lax.stop_gradient(total)))
            codebook = codebook + jnp.mean(jnp.square(jax.lax.stop_gradient(z) - total))
        n = len(self.scales)
        losses = {"commitment": self.commitment * commitment / n, "codebook": codebook / n}
        summed = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *statistics)
        summed["scale_counts"] = jnp.stack([part["counts"] for part in statistics])
        return Quantized(straight_through(z, total), jnp.concatenate(codes, axis=1), losses, summed)

    def encode(self, z: Float[jax.Array, "B H W D"]) -> Int[jax.Array, "B N 1"]:
        """Codes of all scales, int32."""
        residual, codes = self._check(z), []
        for i in range(len(self.scales)):
            codes.append(self.book.encode(self._pool(residual, i)))
            residual = residual - self._grid(codes[-1], i)
        return jnp.concatenate(codes, axis=1)

    def decode(self, codes: Int[jax.Array, "B n 1"]) -> Float[jax.Array, "B H W D"]:
        """Sum of the scales that `codes` holds, all of them or the first ones.

        Raises:
          ValueError: a number of tokens that is not a number of whole scales.
        """
        return self.partial_sums(codes)[-1]

    def partial_sums(self, codes: Int[jax.Array, "B n 1"]) -> Float[jax.Array, "S B H W D"]:
        """The running sum after each scale that `codes` holds."""
        return jnp.stack(self._running(codes))

    def next_inputs(self, codes: Int[jax.Array, "B n 1"]) -> Float[jax.Array, "B m D"]:
        """What a next-scale prior reads: for each scale but the first, the sum of the scales before it,
        pooled to its grid; of codes of the first j scales, the inputs of scales 2 .. j + 1 (as far as there
        are).
        """
        sums = self._running(codes)
        parts = [self._pool(total, i + 1) for i, total in enumerate(sums) if i + 1 < len(self.scales)]
        return jnp.concatenate(parts, axis=1)

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """The codebook's own update, once per step for all scales."""
        if "book" not in state:
            return state
        return {**state, "book": self._book().update(state["book"], statistics, key)}

    @nn.nowrap
    def _book(self):
        return VectorQuantizer(
            self.codes,
            self.width,
            learning=self.learning,
            metric=self.metric,
            decay=self.decay,
            revive_below=self.revive_below,
        )

    def _running(self, codes):
        ends = np.cumsum([h * w for h, w in self.layout.scales])
        if codes.shape[1] not in ends:
            raise ValueError(
                f"{codes.shape[1]} codes are no number of whole scales; those end at {ends.tolist()}"
            )
        sums, total, start = [], 0.0, 0
        for i in range(int(np.searchsorted(ends, codes.shape[1])) + 1):
            total = total + self._grid(codes[:, start : ends[i]], i)
            sums.append(total)
            start = ends[i]
        return sums

    def _check(self, z):
        if z.shape[1:3] != self.layout.scales[-1]:
            raise ValueError(f"a grid of {z.shape[1:3]}; the last of scales={self.scales} must be its size")
        return z.astype(jnp.float32)

    def _pool(self, x, i):
        (height, width), target = x.shape[1:3], self.layout.scales[i]
        if (height, width) != target:
            x = resize(x, area_matrix(height, target[0]), area_matrix(width, target[1]))
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def _grid(self, codes, i):
        source, target = self.layout.scales[i], self.layout.scales[-1]
        # The codes as they are learned, also when only their direction decides which is nearest (as VAR
        # does).
        h = lookup(self.book.codebook, codes[..., 0]).reshape(codes.shape[0], *source, self.width)
        if source != target:
            matrices = (
                interpolation_matrix(a, b, self.interpolation) for a, b in zip(source, target, strict=True)
            )
            h = resize(h, *matrices)
        if not self.phis:
            return h
        phi = self.phi[(self.phi_by_scale or phi_of_scale(len(self.scales), self.phis))[i]]
        return (1 - self.residual_ratio) * h + self.residual_ratio * phi(h)
