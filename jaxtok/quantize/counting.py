"""Additive counts of tokens for quantizers without a codebook."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxtok.codes import CodeSpace
from jaxtok.kernels.spmd import over_tokens

LARGEST = 2**16  # counters per group


def joint_counts(
    codes: Int[jax.Array, "B N Q"], levels: tuple[int, ...], mask: jax.Array | None
) -> dict[str, Any]:
    """How often every token occurred, counted jointly over the slots of a group.

    Args:
      codes: of one or several groups of slots with these levels.
      levels: alphabet of one group.
      mask: bool [B, N] of real tokens, or None.

    Returns:
      "counts" float32 [size], or [groups, size]. When a group has more than 65,536 different tokens its slots
      are counted one by one: {"slot_0": {"counts": [L_0]}, ...}.
    """
    levels = tuple(levels)
    weights = jnp.ones(codes.shape[:2], jnp.float32) if mask is None else mask.astype(jnp.float32)

    def count(index, size):
        add = lambda index, weights: jnp.zeros(size, jnp.float32).at[index].add(weights)
        return over_tokens(add, (index.reshape(-1), weights.reshape(-1)), summed=True)

    size, groups = math.prod(levels), codes.shape[-1] // len(levels)
    if size > LARGEST:
        return {f"slot_{i}": {"counts": count(codes[..., i], n)} for i, n in enumerate(levels * groups)}
    space = CodeSpace(levels)
    parts = [count(space.join(part), size) for part in jnp.split(codes, groups, axis=-1)]
    return {"counts": parts[0] if groups == 1 else jnp.stack(parts)}
