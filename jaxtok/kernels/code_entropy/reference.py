"""The XLA implementation: softmax assignments streamed over tiles of tokens times blocks of codes.

Scores of a tile are computed again wherever they are needed, and only numbers per token are kept: 2 products
of tokens with codes forward and 4 backward, against 1 and 2 when all scores are kept. Memory beside inputs
and outputs: one tile.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.kernels.blocks import for_device
from jaxtok.kernels.code_entropy.shapes import XLA

NEVER = -1e30  # score of a code that is not there; finite, so that 0 times it is 0


def assign(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, " M"],
    codebook: Float[jax.Array, "K D"],
    interpret: bool = False,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Float[jax.Array, " K"]]:
    """Soft assignments of tokens to codes by the scores `z . e`.

    Args:
      z: features, float32.
      weights: of the tokens in the sum over them.
      codebook: codes, float32.
      interpret: for kernels.

    Returns:
      For each token its entropy `-sum_k p_nk log p_nk`, its largest score, and the logarithm of the sum of
      `exp(score - largest)`; for each code `sum_n weights_n p_nk`.
    """

    def tile(rows):
        z, weights = rows

        def normaliser(carry, block):
            # The mean is that of score - top (times the total): small numbers, where scores are large.
            top, total, mean = carry
            scores = scores_of(z, block)
            new = jnp.maximum(top, jnp.max(scores, axis=-1))
            old, away = jnp.exp(top - new), scores - new[:, None]
            e = jnp.exp(away)
            mean = (mean + total * (top - new)) * old + (e * away).sum(-1)
            return (new, total * old + e.sum(-1), mean), None

        zeros = jnp.zeros(z.shape[0], jnp.float32)
        (top, total, mean), _ = jax.lax.scan(normaliser, (zeros + NEVER, zeros, zeros), blocks)

        def mass(carry, block):
            p = jnp.exp(scores_of(z, block) - top[:, None]) / total[:, None]
            return carry, dot(weights, p)

        _, masses = jax.lax.scan(mass, None, blocks)
        return (jnp.log(total) - mean / total, top, jnp.log(total)), masses

    blocks = blocks_of(codebook)
    return by_tiles(tile, (z, weights), codebook.shape[0])


def assign_gradient(
    z: Float[jax.Array, "M D"],
    weights: Float[jax.Array, " M"],
    entropy: Float[jax.Array, " M"],
    top: Float[jax.Array, " M"],
    log_total: Float[jax.Array, " M"],
    by_entropy: Float[jax.Array, " M"],
    codebook: Float[jax.Array, "K D"],
    by_mass: Float[jax.Array, " K"],
    interpret: bool = False,
) -> tuple[Float[jax.Array, "M D"], Float[jax.Array, "K D"]]:
    """Gradients to features and codes.

    Args:
      z: features.
      weights: of the tokens.
      entropy: of each token, as `assign` returns it.
      top: the largest score, likewise.
      log_total: likewise.
      by_entropy: gradient to the entropies.
      codebook: codes.
      by_mass: gradient to the sums over tokens.
      interpret: for kernels.
    """

    def tile(rows):
        z, weights, entropy, top, log_total, by_entropy = rows

        def log_p(block):
            return scores_of(z, block) - top[:, None] - log_total[:, None]

        def average(mean, block):
            return mean + dot(jnp.exp(log_p(block)), block[2]), None

        mean, _ = jax.lax.scan(average, jnp.zeros_like(top), blocks)

        def gradient(dz, block):
            log = log_p(block)
            pulled = weights[:, None] * (block[2] - mean[:, None])
            d = jnp.exp(log) * (pulled - by_entropy[:, None] * (log + entropy[:, None]))
            return dz + dot(d, block[0]), dot(d.T, z)

        return jax.lax.scan(gradient, jnp.zeros_like(z), blocks)

    blocks = blocks_of(codebook, by_mass)
    return by_tiles(tile, (z, weights, entropy, top, log_total, by_entropy), codebook.shape[0])


def dot(a, b):
    return jnp.dot(a, b, precision="highest")


def scores_of(z, block):
    return jnp.where(block[1], dot(z, block[0].T), NEVER)


def blocks_of(codebook, *others):
    """Codes [steps, S, D], whether they exist, and further arrays per code, by blocks."""
    codes = codebook.shape[0]
    size = min(for_device(XLA).codes, codes)
    missing = -codes % size

    def split(x):
        return jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:])

    return split(codebook), split(jnp.ones(codes, bool)), *(split(x) for x in others)


def by_tiles(tile: Callable[[Any], tuple[Any, jax.Array]], rows: tuple[jax.Array, ...], codes: int) -> Any:
    """Outputs of every tile of tokens, and the sum over tiles of those per code ([steps, S] becomes [K]).

    Tiles are filled up with rows of zeros, which must not count.
    """
    count = rows[0].shape[0]
    size = min(for_device(XLA).tokens, count)
    missing = -count % max(size, 1)
    tiles = [
        jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:]) for x in rows
    ]

    def step(total, rows):
        out, by_code = tile(rows)
        return total + by_code, out

    first = jax.eval_shape(tile, tuple(x[0] for x in tiles))[1]
    total, out = jax.lax.scan(step, jnp.zeros(first.shape, first.dtype), tuple(tiles))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)
    return flat, total.reshape(-1, *total.shape[2:])[:codes]
