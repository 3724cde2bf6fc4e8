"""How many depths of a residual stack are kept in a training step (quantizer dropout, arXiv 2107.03312), and
what that means for the tokens of a depth.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int


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


def tokens_at(
    depth: int,
    kept: jax.Array | int | None,
    mask: Bool[jax.Array, "B N"] | None,
    shape: tuple[int, ...],
) -> Bool[jax.Array, "B N"] | None:
    """Which tokens are real and keep a depth; None for all.

    Args:
      depth: counted from 0.
      kept: number of depths that are kept, [] or [B]; None for all.
      mask: True where a token is real; None for all.
      shape: (B, N).
    """
    if kept is None:
        return mask
    here = jnp.broadcast_to(jnp.reshape(depth < jnp.asarray(kept), (-1, 1)), shape)
    return here if mask is None else here & mask


def share(here: jax.Array | None, mask: jax.Array | None) -> jax.Array | float:
    """Share of the real tokens that keep a depth: the weight of a mean over those in a mean over all.

    Args:
      here: bool, which do, see `tokens_at`; None for all.
      mask: bool, True where a token is real; None for all.
    """
    if here is None:
        return 1.0
    real = here.size if mask is None else jnp.maximum(jnp.sum(mask), 1)
    return jnp.sum(here) / real


def levels_mask(
    kept: Int[jax.Array, " B"],
    tokens: int,
    depths: int,
    slots_per_depth: int = 1,
    mask: Bool[jax.Array, "B N"] | None = None,
) -> Bool[jax.Array, "B N Q"]:
    """Which slots remain when only some depths are kept, bool.

    Args:
      kept: number of depths that are kept.
      tokens: N.
      depths: of the stack.
      slots_per_depth: Q / depths.
      mask: True where a token is real; None for all.
    """
    depth = jnp.arange(depths * slots_per_depth) // slots_per_depth
    levels = jnp.broadcast_to((depth < kept[:, None])[:, None], (kept.shape[0], tokens, depth.size))
    return levels if mask is None else levels & mask[..., None]
