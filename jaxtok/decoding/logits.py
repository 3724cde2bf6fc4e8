"""Rules that change logits before a value is drawn from them: temperature, top-k, top-p, min-p.

Every rule is a pure function of static shape on the last axis; what it excludes becomes minus infinity. They
compose by application, and `LogitRules` is one composition as data. What they exclude never includes the
likeliest value, so there is always something to draw.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt32

Logits = Float[jax.Array, "*batch K"]
_SIGN = np.uint32(1 << 31)  # the sign bit of a float32


def temperature(logits: Logits, value: float | jax.Array) -> Logits:
    """`logits / value`: below 1 sharper, above 1 flatter.

    Raises:
      ValueError: a static value that is not positive; taking the likeliest value is no division.
    """
    if not isinstance(value, jax.Array) and value <= 0:
        raise ValueError(f"temperature={value} must be positive; take `likeliest` instead")
    return logits / value


def top_k(logits: Logits, k: int) -> Logits:
    """Keeps the k largest, and what equals the smallest of them; k = 0 keeps all.

    Raises:
      ValueError: a negative k.
    """
    if k < 0:
        raise ValueError(f"top_k={k} must be at least 0 (0 keeps every value)")
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return _exclude(logits, _among_largest(logits, k))


def top_p(logits: Logits, p: float) -> Logits:
    """Nucleus (arXiv 1904.09751): keeps the likeliest values whose probability before them is below p; p = 1
    keeps all. Of equal values the lower goes first.

    Raises:
      ValueError: p outside (0, 1].
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must lie in (0, 1] (1 keeps every value)")
    if p == 1:
        return logits
    return _exclude(logits, _nucleus(logits, p))


def min_p(logits: Logits, p: float) -> Logits:
    """Keeps the values that are at least p times as likely as the likeliest (arXiv 2407.01082); 0 keeps all.

    Raises:
      ValueError: p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p={p} must lie in [0, 1] (0 keeps every value)")
    if p == 0:
        return logits
    return _exclude(logits, logits >= jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p))


def likeliest(logits: Logits) -> Int[jax.Array, "*batch"]:
    """Index of the largest value, int32, the lowest of equal ones; what `argmax` gives, in two reductions.

    XLA computes its `argmax` of two outputs without vector instructions on CPUs, and computes again what
    feeds it: noise and argmax together took four times as long.
    """
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    last = logits.shape[-1] - 1  # also where nothing equals the largest value, for it is not a number
    return jnp.min(jnp.where(largest, places, last), axis=-1)


@dataclasses.dataclass(frozen=True)
class LogitRules:
    """Temperature, then top-k, then top-p, then min-p.

    Attributes:
      temperature: divides the logits.
      top_k: how many values are kept; 0 for all.
      top_p: probability of the nucleus; 1 for all.
      min_p: least probability relative to the likeliest value; 0 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        # Every rule checks its own number. Nothing is computed: defaults are made when modules are imported.
        jax.eval_shape(self, jax.ShapeDtypeStruct((1,), jnp.float32))

    def __call__(self, logits: Logits) -> Logits:
        """Changed logits, of the same shape."""
        if self.temperature != 1:
            logits = temperature(logits, self.temperature)
        return min_p(top_p(top_k(logits, self.top_k), self.top_p), self.min_p)


@functools.partial(jax.jit, static_argnums=1)  # so that calls outside of one compile it once
def _among_largest(logits: Logits, k: int) -> Bool[jax.Array, "*batch K"]:
    """Which values are at least the k-th largest, exactly."""
    order = _ordered(logits)
    return order >= _last_that(order, lambda among: jnp.sum(among, axis=-1, keepdims=True) >= k)


@functools.partial(jax.jit, static_argnums=1)
def _nucleus(logits: Logits, p: float) -> Bool[jax.Array, "*batch K"]:
    """Which values have less than p before them."""
    order, probabilities = _ordered(logits), jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    mass = lambda among: jnp.sum(jnp.where(among, probabilities, 0), axis=-1, keepdims=True)
    crossing = _last_that(order, lambda among: mass(among) >= p)
    above, tied = order > crossing, order == crossing
    ties = jnp.where(tied, probabilities, 0)
    return above | (tied & (mass(above) + jnp.cumsum(ties, axis=-1) - ties < p))


def _ordered(logits: Logits) -> UInt32[jax.Array, "*batch K"]:
    """Integers in the order of the values: the bits of a float, those of a negative one inverted."""
    values = logits.astype(jnp.float32)
    values = jnp.where(values == 0, 0.0, values)  # both zeros are one value
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >= _SIGN, ~bits, bits | _SIGN)


def _last_that(order: UInt32[jax.Array, "*batch K"], enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest integer such that the values from it upwards are `enough`, [*batch, 1]; 0 if none is.

    Found bit by bit, without sorting: XLA's `top_k` on CPUs took twenty times as long for 2000 of 16384.
    """

    def narrow(step, least):
        higher = least | (jnp.uint32(_SIGN) >> step.astype(jnp.uint32))
        return jnp.where(enough(order >= higher), higher, least)

    return jax.lax.fori_loop(0, 32, narrow, jnp.zeros_like(order[..., :1]))


def _exclude(logits, keep):
    return jnp.where(keep, logits, -jnp.inf)
