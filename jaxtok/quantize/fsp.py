"""Finite scalar quantization by a fixed distribution function (FSP, arXiv 2602.17133).

    y = F(z) in [0, 1],   code = floor(L y),   y_q = (code + 1/2) / L,   value = (y_q - 1/2) / sqrt(1/12)

F is the cumulative distribution of the activation: when z is distributed that way, all codes are equally
  likely and
the value has unit variance. Training can mix rounding with uniform noise of the width of a bin; a regulariser
pulls the moments of z to those of the distribution.

    >>> import jax
    >>> from jaxtok.quantize.fsp import FSP
    >>> quantizer = FSP(levels=(8, 5, 5), width=16, activation="normal")
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> quantizer.apply(variables, z, method="encode").shape
    (4, 8, 3)
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import masked, straight_through

Regulariser = Literal["none", "variance", "skewness", "kurtosis"]
UNIFORM_DEVIATION = 12**-0.5  # of U(0, 1)
_INSIDE = 1e-7  # the inverse of a distribution function is infinite at 0 and 1


@dataclasses.dataclass(frozen=True)
class Activation:
    """A distribution.

    Attributes:
      cdf: distribution function.
      inverse: its inverse on (0, 1).
      variance, kurtosis: of the distribution, the latter in excess of the normal one; None where there is
        none.
    """

    cdf: Callable[[jax.Array], jax.Array]
    inverse: Callable[[jax.Array], jax.Array]
    variance: float | None = None


def _logit(y):
    return jnp.log(y) - jnp.log1p(-y)


ACTIVATIONS = {
    "tanh": Activation(lambda z: (jnp.tanh(z) + 1) / 2, lambda y: _logit(y) / 2, math.pi**2 / 12),
    "sigmoid": Activation(jax.nn.sigmoid, _logit, math.pi**2 / 3),
    "normal": Activation(jax.scipy.stats.norm.cdf, jax.scipy.stats.norm.ppf, 1.0),
    "laplace": Activation(
        lambda z: 0.5 - 0.5 * jnp.sign(z) * jnp.expm1(-jnp.abs(z)),
        lambda y: -jnp.sign(y - 0.5) * jnp.log1p(-2 * jnp.abs(y - 0.5)),
        2.0,
    ),
    "cauchy": Activation(lambda z: jnp.arctan(z) / jnp.pi + 0.5, lambda y: jnp.tan(jnp.pi * (y - 0.5))),
}

# Weights of the squared deviations of mean, variance, skewness and excess kurtosis.
MOMENT_WEIGHTS = (0.1, 0.07, 0.06, 0.05)


def moments(z: Float[jax.Array, "M Q"], weights: jax.Array | None = None) -> tuple[jax.Array, ...]:
    """Mean, unbiased variance, skewness and excess kurtosis per channel; the last two are standardised with
    the unbiased deviation.

    Args:
      z: values.
      weights: [M], 1 for real tokens and 0 for others.
    """
    weights = jnp.ones(z.shape[:1], jnp.float32) if weights is None else weights
    count = jnp.maximum(jnp.sum(weights), 1.0)
    average = lambda x: jnp.sum(x * weights[:, None], axis=0) / count
    mean = average(z)
    # With one token there is no deviation; 0 then, not 0 / 0.
    variance = average(jnp.square(z - mean)) * count / jnp.maximum(count - 1, 1.0)
    standard = (z - mean) / jnp.sqrt(jnp.maximum(variance, 1e-12))
    return mean, variance, average(standard**3), average(standard**4) - 3


def moment_loss(
    z: Float[jax.Array, "M Q"],
    order: Literal["variance", "skewness", "kurtosis"],
    target_variance: float,
    weights: jax.Array | None = None,
) -> Float[jax.Array, ""]:
    """Weighted squared deviations of the moments up to an order from (0, target_variance, 0, 0)."""
    used = {"variance": 2, "skewness": 3, "kurtosis": 4}[order]
    terms = zip(MOMENT_WEIGHTS, moments(z, weights), (0.0, target_variance, 0.0, 0.0), strict=True)
    return sum((w * jnp.mean(jnp.square(m - t)) for w, m, t in list(terms)[:used]), jnp.float32(0))


def bins(y: Float[jax.Array, "*batch Q"], levels: tuple[int, ...]) -> Int[jax.Array, "*batch Q"]:
    """Index of the equal bin of [0, 1] that y lies in."""
    n = np.asarray(levels, np.float32)
    return jnp.clip(jnp.floor(y * n), 0, n - 1).astype(jnp.int32)


def level_table(levels: tuple[int, ...], inverse: Activation | None = None) -> jax.Array:
    """Values of all codes, float32 [Q, largest level]; a constant, so that a code has the same value to the
    bit however the look-up is compiled.

    Args:
      levels: number of bins per channel.
      inverse: the activation whose inverse gives the values; None for those of unit variance.
    """
    n = np.asarray(levels)[:, None]
    y = np.minimum(np.arange(max(levels)) + 0.5, n - 0.5) / n
    if inverse is None:
        return jnp.asarray((y - 0.5) / UNIFORM_DEVIATION, jnp.float32)
    with jax.ensure_compile_time_eval():
        return inverse.inverse(jnp.asarray(np.clip(y, _INSIDE, 1 - _INSIDE), jnp.float32))


def perturb(
    y: Float[jax.Array, "*batch Q"], levels: tuple[int, ...], uniforms: jax.Array
) -> Float[jax.Array, "*batch Q"]:
    """Noise as wide as a bin: y + (2 u - 1) / (2 L), or y where that leaves (0, 1).

    Args:
      y: in [0, 1].
      levels: number of bins per channel.
      uniforms: uniform numbers u in [0, 1).
    """
    moved = y + (2 * uniforms - 1) * (0.5 / np.asarray(levels, np.float32))
    return jnp.where((moved > 0) & (moved < 1), moved, y)


class FSP(FixedStateQuantizer):
    """Finite scalar quantization by a distribution function.

    Attributes:
      levels: number of bins per channel.
      width: D of the features; 0 for as many as there are channels, otherwise linear maps lead in and out.
      activation: the distribution, one of `ACTIVATIONS`.
      quantize_rate: in training, the share of values that are rounded; the others get noise.
      inverse: give values on the scale of z (through the inverse of F) instead of unit variance.
      regulariser: up to which moment z is pulled to (0, target_variance, 0, 0); "none" for off.
      target_variance: None for that of the distribution (pi^2 / 12 for "tanh"), or 1 where there is none
        ("cauchy").
      project: "auto" when widths differ, or "always".
      projection_bias: whether the linear maps have one.
    """

    levels: tuple[int, ...]
    width: int = 0
    activation: Literal["tanh", "sigmoid", "normal", "laplace", "cauchy"] = "tanh"
    quantize_rate: float = 1.0
    inverse: bool = False
    regulariser: Regulariser = "variance"
    target_variance: float | None = None
    project: Literal["auto", "always"] = "auto"
    projection_bias: bool = True

    @property
    def space(self) -> CodeSpace:
        """One slot per channel."""
        return CodeSpace(tuple(self.levels))

    def setup(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}; choose one of {sorted(ACTIVATIONS)}")
        if min(self.levels) < 2:
            raise ValueError(f"levels={self.levels}: every channel needs at least 2 levels")
        slots = len(self.levels)
        self.projected = self.project == "always" or (self.width or slots) != slots
        if self.projected:
            self.inward = linear(slots, self.projection_bias)
            self.outward = linear(self.width or slots, self.projection_bias)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: replace rounding by noise where `quantize_rate` says so.
          key: scalar key or one key per example, for the noise; default the "quantizer" stream of `rngs`.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the loss "moments", and counts as `jaxtok.quantize.counting` gives them.
        """
        del temperature
        inner = self._inner(masked(z, mask))
        activation = ACTIVATIONS[self.activation]
        y = activation.cdf(inner)
        codes = bins(y, self.levels)
        routed = self._follow(self._values(codes), y, inner)
        if train and self.quantize_rate < 1:
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
            noisy = perturb(y, self.levels, random.uniform(random.fold(keys, 0), y.shape[1:]))
            noisy = self._follow(self._scaled(noisy), y, inner)
            rounded = random.uniform(random.fold(keys, 1), y.shape[1:]) < self.quantize_rate
            routed = jnp.where(rounded, routed, noisy)
        losses = {}
        if self.regulariser != "none":
            weights = None if mask is None else mask.reshape(-1).astype(jnp.float32)
            variance = (activation.variance or 1.0) if self.target_variance is None else self.target_variance
            flat = inner.reshape(-1, inner.shape[-1])
            losses["moments"] = moment_loss(flat, self.regulariser, variance, weights)
        codes = masked(codes, mask)
        values = masked(self._out(routed), mask)
        return Quantized(values, codes, losses, joint_counts(codes, self.levels, mask))

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N Q"]:
        """Codes, int32 in [0, levels)."""
        return masked(bins(ACTIVATIONS[self.activation].cdf(self._inner(z)), self.levels), mask)

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32."""
        return self._out(self._values(codes))

    def _inner(self, z):
        z = z.astype(jnp.float32)
        return self.inward(z) if self.projected else z

    def _scaled(self, y):
        if self.inverse:
            return ACTIVATIONS[self.activation].inverse(jnp.clip(y, _INSIDE, 1 - _INSIDE))
        return (y - 0.5) * np.float32(1 / UNIFORM_DEVIATION)

    def _values(self, codes):
        table = level_table(self.levels, ACTIVATIONS[self.activation] if self.inverse else None)
        return table[np.arange(len(self.levels)), codes]

    def _follow(self, values, y, inner):
        """Values with the gradient of `_scaled(y)`, or of z where both are on one scale."""
        return straight_through(inner if self.inverse else self._scaled(y), values)

    def _out(self, values):
        return self.outward(values) if self.projected else values
