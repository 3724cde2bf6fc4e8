"""How many depths of a residual stack are kept in a training step (quantizer dropout, arXiv 2107.03312)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int


def kept_depths(
    uniforms: Float[jax.Array, "*batch"], depth: int, at_least: int = 1, multiple_of: int = 1
) -> Int[jax.Array, "*batch"]:
    """Numbers of depths to keep, uniform over `at_least` .. depth, rounded up to a multiple.

    Args:
      uniforms: in [0, 1).
      depth: of the stack.
      at_least: smallest number.
      multiple_of: what it is rounded up to a multiple of (at most `depth`).
    """
    kept = at_least + jnp.floor(uniforms * (depth - at_least + 1)).astype(jnp.int32)
    return round_depths(kept, depth, multiple_of)


def round_depths(kept: jax.Array, depth: int, multiple_of: int) -> jax.Array:
    """Numbers of depths rounded up to a multiple, at most `depth`."""
    return jnp.minimum(-(-kept // multiple_of) * multiple_of, depth)
