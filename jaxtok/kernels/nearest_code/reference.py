"""The XLA implementation: tiles of tokens times blocks of codes, with a running minimum."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.kernels.blocks import Blocks, for_device
from jaxtok.kernels.nearest_code.shapes import XLA


def in_blocks(
    weights: Float[jax.Array, "K D"], bias: Float[jax.Array, " K"], blocks: Blocks
) -> tuple[Float[jax.Array, "S D C"], Float[jax.Array, "S C"]]:
    """Weights and biases of S blocks of C codes, as `search` walks over them."""
    codes = weights.shape[0]
    size = min(blocks.codes, codes)
    missing = -codes % size
    kernel = jnp.pad(weights, ((0, missing), (0, 0))).reshape(-1, size, weights.shape[1]).transpose(0, 2, 1)
    # Codes that are not there lose against every other.
    return kernel, jnp.pad(bias, (0, missing), constant_values=jnp.inf).reshape(-1, size)


def search(
    rows: Float[jax.Array, "M D"], kernel: Float[jax.Array, "S D C"], offsets: Float[jax.Array, "S C"]
) -> tuple[Int[jax.Array, " M"], Float[jax.Array, " M"]]:
    """Lowest index and value over all blocks, for one tile of tokens.

    Each tile of scores is read twice while it is in the cache, once for the minimum and once for its place:
    two simple reductions vectorise where XLA's reduction over pairs of value and index does not (measured on
    CPU, K=8,192: 5 times as fast).
    """
    steps, size = offsets.shape
    places = jnp.arange(size, dtype=jnp.int32)

    def step(best, block):
        weights, offset, number = block
        scores = jnp.dot(rows, weights, precision="highest") + offset
        lowest = jnp.min(scores, axis=-1)
        index = jnp.min(jnp.where(scores == lowest[:, None], places, size - 1), axis=-1)
        better = lowest < best[1]  # strictly: of equals the earlier one stays, and NaN never wins
        return (jnp.where(better, index + number * size, best[0]), jnp.where(better, lowest, best[1])), None

    start = jnp.zeros(rows.shape[0], jnp.int32), jnp.full(rows.shape[0], jnp.inf, jnp.float32)
    if steps == 1:
        return step(start, (kernel[0], offsets[0], 0))[0]
    return jax.lax.scan(step, start, (kernel, offsets, jnp.arange(steps, dtype=jnp.int32)))[0]


def smallest_score(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, " M"], Float[jax.Array, " M"]]:
    """Lowest index and value of `min_k bias_k + z . weights_k`; `interpret` is for kernels.

    Only one tile of scores exists at a time.
    """
    blocks = blocks or for_device(XLA)
    tokens, rows = z.shape[0], blocks.tokens
    kernel, offsets = in_blocks(weights, bias, blocks)
    if tokens <= rows:
        return search(z, kernel, offsets)
    padded = jnp.pad(z, ((0, -tokens % rows), (0, 0))).reshape(-1, rows, z.shape[1])
    index, score = jax.lax.map(lambda tile: search(tile, kernel, offsets), padded)
    return index.reshape(-1)[:tokens], score.reshape(-1)[:tokens]
