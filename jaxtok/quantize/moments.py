"""Moments of features, and what pulls them to those of a distribution (FSP, arXiv 2602.17133)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

Regulariser = Literal["none", "variance", "skewness", "kurtosis"]

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
