"""Nested dropout: in training only the first few tokens of an image survive, so that they are ordered from
coarse to fine and every prefix of them can be decoded (arXiv 1402.0915, for tokens arXiv 2502.13967).

    uniform        keep ~ U{1, ..., N}
    pow2           keep ~ U{1, 2, 4, ..., N}
    uniform_pow2   keep ~ U{1, ..., N}, rounded up to a power of two, at most N

Nothing changes its shape: tokens that are dropped become one learned vector.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

NestedDropout = Literal["none", "uniform", "pow2", "uniform_pow2"]


def prefix_lengths(tokens: int) -> tuple[int, ...]:
    """Powers of two below N, and N itself."""
    return (*(2**i for i in range((tokens - 1).bit_length())), tokens)


def kept_tokens(
    uniforms: Float[jax.Array, "*batch"], tokens: int, mode: str = "uniform"
) -> Int[jax.Array, "*batch"]:
    """How many tokens to keep, int32 in 1..N.

    Args:
      uniforms: in [0, 1).
      tokens: N.
      mode: see above; "none" keeps all of them.

    Raises:
      ValueError: an unknown mode.
    """
    if mode == "none":
        return jnp.full(uniforms.shape, tokens, jnp.int32)
    lengths = np.asarray(prefix_lengths(tokens), np.int32)
    if mode == "pow2":
        return jnp.asarray(lengths)[jnp.floor(uniforms * len(lengths)).astype(jnp.int32)]
    if mode not in ("uniform", "uniform_pow2"):
        raise ValueError(f"nested dropout {mode!r}; choose 'none', 'uniform', 'pow2' or 'uniform_pow2'")
    kept = 1 + jnp.floor(uniforms * tokens).astype(jnp.int32)
    # By search, not by logarithm: rounding must not move a power of two.
    return kept if mode == "uniform" else jnp.asarray(lengths)[jnp.searchsorted(lengths, kept)]


def prefix_mask(kept: Int[jax.Array, "*B"] | int, tokens: int) -> Bool[jax.Array, "R N"]:
    """Which tokens those are: the first ones, bool; one row for a single number."""
    return jnp.arange(tokens) < jnp.reshape(jnp.asarray(kept), (-1, 1))
