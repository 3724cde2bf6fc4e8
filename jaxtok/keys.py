"""Random numbers that depend on the example, not on where or in what company it is computed.

Every draw that a loss or a sampler makes for a batch comes from one key per example, folded with the
example's index in the global batch. Splitting the batch into micro-batches or over devices then changes
nothing, which is what makes a run on one chip comparable with a run on a pod.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """One typed key per example.

    Args:
      key: a scalar typed key (`jax.random.key`), or an array of `batch` typed keys, which passes through.
      batch: number of examples.

    Returns:
      Typed key array of shape [batch].

    Raises:
      ValueError: an array of keys of another length.
    """
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(
            f"got keys of shape {key.shape} for a batch of {batch}; pass one scalar key or {batch} keys"
        )
    return key


def fold(keys: jax.Array, data: int | jax.Array) -> jax.Array:
    """Folds the same number into every key of an array of keys (or into a scalar key)."""
    if keys.ndim == 0:
        return jax.random.fold_in(keys, data)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def uniform(keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Uniform numbers in [0, 1), float32 [B, *shape], row b drawn from `keys[b]` alone."""
    return jax.vmap(lambda k: jax.random.uniform(k, tuple(shape), jnp.float32))(keys)


def normal(keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Standard normal numbers, float32 [B, *shape], row b drawn from `keys[b]` alone."""
    return jax.vmap(lambda k: jax.random.normal(k, tuple(shape), jnp.float32))(keys)


def bernoulli(keys: jax.Array, p: jax.Array) -> jax.Array:
    """Coins with the given probabilities [B, ...] of being True, row b drawn from `keys[b]` alone; bool like
    `p`.
    """
    return uniform(keys, p.shape[1:]) < p


def gumbel(keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Standard Gumbel numbers, float32 [B, *shape], row b drawn from `keys[b]` alone."""
    return jax.vmap(lambda k: jax.random.gumbel(k, tuple(shape), jnp.float32))(keys)
