"""The XLA implementation: a gather, whose gradient is a scatter-add."""

import jax
from jaxtyping import Float, Int


def look_up(
    codebooks: Float[jax.Array, "Q K D"], codes: Int[jax.Array, "*batch Q"], interpret: bool = False
) -> Float[jax.Array, "*batch D"]:
    """Sum over slots of the code vectors; `interpret` is for kernels."""
    # Slot after slot: [..., Q, D] never exists.
    values = codebooks[0][codes[..., 0]]
    for slot in range(1, codebooks.shape[0]):
        values = values + codebooks[slot][codes[..., slot]]
    return values
