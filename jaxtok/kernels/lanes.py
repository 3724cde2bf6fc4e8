"""Moves between rows and lanes of a TPU's vectors, which are what reductions there cost."""

import functools

import jax
import jax.numpy as jnp

from jaxtok.kernels.blocks import LANES


def fold(x: jax.Array) -> jax.Array:
    """[R, n * 128] to [R, 128]: sums that need no move; `row` ends them, once."""
    return functools.reduce(jnp.add, [x[:, i : i + LANES] for i in range(0, x.shape[1], LANES)])


def row(x: jax.Array) -> jax.Array:
    """[R, 128] to [1, R], R a multiple of 128: the sum over lanes, a row without padding."""
    return jnp.sum(x.T, axis=0, keepdims=True)


def column(x: jax.Array) -> jax.Array:
    """[1, R] to [R, 1], R a multiple of 128."""
    return jnp.broadcast_to(x, (LANES, x.shape[1])).T[:, :1]
