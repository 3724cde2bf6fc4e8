"""Distributions whose distribution function squeezes activations into [0, 1], and back."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

INSIDE = 1e-7  # the inverse of a distribution function is infinite at 0 and 1


@dataclasses.dataclass(frozen=True)
class Activation:
    """A distribution.

    Attributes:
      cdf: distribution function.
      inverse: its inverse on (0, 1).
      variance: of the distribution; None where there is none.
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
