"""The XLA implementation: tiles of tokens times blocks of codes, with a running minimum."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.kernels.nearest_code.shapes import XLA, Blocks, blocks_for


def smallest_score(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, "K D"],
    bias: Float[jax.Array, " K"],
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[Int[jax.Array, " M"], Float[jax.Array, " M"]]:
    """Lowest index and value of `min_k bias_k + z . weights_k`; `interpret` is for kernels.

    Only one tile of scores exists at a time. Each tile is read twice while it is in the cache, once for the
    minimum and once for its place: two simple reductions vectorise where XLA's reduction over pairs of value
    and index does not (measured on CPU, K=8,192: 5 times as fast).
    """
    blocks = blocks or blocks_for(XLA)
    tokens, codes = z.shape[0], weights.shape[0]
    size = min(blocks.codes, codes)
    steps = -(-codes // size)
    missing = steps * size - codes
    kernel = jnp.pad(weights, ((0, missing), (0, 0))).reshape(steps, size, -1).transpose(0, 2, 1)
    # Codes that are not there lose against every other.
    offsets = jnp.pad(bias, (0, missing), constant_values=jnp.inf).reshape(steps, size)
    places = jnp.arange(size, dtype=jnp.int32)

    def block(rows, kernel, offset):
        scores = jnp.dot(rows, kernel, precision="highest") + offset
        lowest = jnp.min(scores, axis=-1)
        index = jnp.min(jnp.where(scores == lowest[:, None], places, size - 1), axis=-1)
        return index, lowest

    def tile(rows):
        def step(best, part):
            index, lowest = block(rows, *part[:2])
            better = lowest < best[1]  # strictly: of equals the earlier one stays, and NaN never wins
            return (
                jnp.where(better, index + part[2] * size, best[0]),
                jnp.where(better, lowest, best[1]),
            ), None

        start = jnp.zeros(rows.shape[0], jnp.int32), jnp.full(rows.shape[0], jnp.inf, jnp.float32)
        if steps == 1:
            return step(start, (kernel[0], offsets[0], 0))[0]
        return jax.lax.scan(step, start, (kernel, offsets, jnp.arange(steps, dtype=jnp.int32)))[0]

    if tokens <= blocks.tokens:
        return tile(z)
    tiles = -(-tokens // blocks.tokens)
    padded = jnp.pad(z, ((0, tiles * blocks.tokens - tokens), (0, 0)))
    index, score = jax.lax.map(tile, padded.reshape(tiles, blocks.tokens, -1))
    return index.reshape(-1)[:tokens], score.reshape(-1)[:tokens]
