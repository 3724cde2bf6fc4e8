"""What a network that denoises tokens minimises: the error of its noise, and a bound that its variances alone
learn from (arXiv 2102.09672; per token as in MAR, arXiv 2406.11838).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.decoding.diffusion import Course, data_of, step_back, variance_between

_BIN = 1 / 255  # half the width of a grey value where values span [-1, 1]


def noised(
    course: Course, index: Int[jax.Array, "*batch"], data: Float[jax.Array, "*batch C"], noise: jax.Array
) -> Float[jax.Array, "*batch C"]:
    """Data after the noise of a step of the course."""
    signal, spread = (jnp.asarray(table)[index][..., None] for table in (course.signal, course.noise))
    return signal * data + spread * noise


def diffusion_terms(
    course: Course,
    index: Int[jax.Array, "*batch"],
    data: Float[jax.Array, "*batch C"],
    noise: Float[jax.Array, "*batch C"],
    predicted: Float[jax.Array, "*batch C"],
    variance: Float[jax.Array, "*batch C"],
) -> tuple[Float[jax.Array, "*batch"], Float[jax.Array, "*batch"]]:
    """The two terms of a token's loss, each a mean over its channels.

    The bound is the divergence of the network's step back from the exact one, in bits; at the first step it
    is the likelihood of the data, as if they were grey values (so the released codes have it). The mean of
    the network's step is held fast in it.

    Args:
      course: of the whole diffusion.
      index: step of each token.
      data, noise: what the noised tokens were made of.
      predicted, variance: what the network says of them.

    Returns:
      Mean squared error of the noise, and the bound; float32.
    """
    x = noised(course, index, data, noise)
    exact, lower, upper = step_back(course, index, x, data)
    mean, _, _ = step_back(course, index, x, data_of(course, index, x, jax.lax.stop_gradient(predicted)))
    log_variance = variance_between(variance, lower, upper)
    divergence = 0.5 * (
        log_variance
        - lower
        - 1
        + jnp.exp(lower - log_variance)
        + jnp.square(exact - mean) * jnp.exp(-log_variance)
    )
    first = (index == 0)[..., None]
    bound = jnp.where(first, -_binned_likelihood(data, mean, log_variance), divergence) / math.log(2)
    return jnp.mean(jnp.square(predicted - noise), axis=-1), jnp.mean(bound, axis=-1)


def _binned_likelihood(x, mean, log_variance):
    """Log-probability of the grey value around x, whose outermost bins reach to infinity; at least log 1e-12.

    The normal distribution function is that of GELU's tanh, 0.5 (1 + tanh(u / 2)) = sigmoid(u). Both ends of
    a bin are taken on the side where that is small, because near 1 a difference has no digits left.
    """
    rate = jnp.exp(-0.5 * log_variance)
    high, low = _logit(rate * (x - mean + _BIN)), _logit(rate * (x - mean - _BIN))
    beyond = high + low > 0
    inside = jax.nn.sigmoid(jnp.where(beyond, -low, high)) - jax.nn.sigmoid(jnp.where(beyond, -high, low))
    inside = jnp.where(x < -0.999, jax.nn.sigmoid(high), inside)
    inside = jnp.where(x > 0.999, jax.nn.sigmoid(-low), inside)
    return jnp.log(jnp.maximum(inside, 1e-12))


def _logit(x):
    """log(F / (1 - F)) of the normal distribution function F at x, about."""
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
