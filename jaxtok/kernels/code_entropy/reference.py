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

from jaxtok.kernels import spmd
from jaxtok.kernels.nearest_code.shapes import XLA, blocks_for

NEVER = -1e30  # score of a code that is not there; finite, so that 0 times it is 0


@jax.custom_vjp
def soft_assignment(
    z: Float[jax.Array, "M D"],
    codebook: Float[jax.Array, "K D"],
    scale: float | jax.Array,
    weights: Float[jax.Array, " M"],
) -> tuple[Float[jax.Array, " M"], Float[jax.Array, " K"]]:
    """Entropy of each token's assignment, and the tokens' weights that each code gets.

    Args:
      z: features, float32.
      codebook: codes, float32.
      scale: of the scores, the inverse temperature.
      weights: of the tokens in the sum, such as a mask; no gradient.

    Returns:
      Entropies `-sum_k p_nk log p_nk` in nats, and `sum_n weights_n p_nk`.
    """
    return _assignment_forward(z, codebook, scale, weights)[0]


def _assignment_forward(z, codebook, scale, weights):
    shared = codebook, jnp.float32(scale)
    (entropy, top, log_total), mass = spmd.over_tokens(_assign, (z, weights), shared, (False, True))
    return (entropy, mass[:, 0]), (z, codebook, scale, weights, entropy, top, log_total)


def _assignment_backward(saved, cotangent):
    z, codebook, scale, weights, entropy, top, log_total = saved
    by_entropy, by_mass = cotangent
    tokens = z, weights, entropy, top, log_total, by_entropy
    shared = codebook, jnp.float32(scale), by_mass
    dz, dcodebook = spmd.over_tokens(_assign_gradient, tokens, shared, (False, True))
    return dz, dcodebook, None, None


soft_assignment.defvjp(_assignment_forward, _assignment_backward)


def _assign(z, weights, codebook, scale):
    def tile(rows):
        z, weights = rows

        def normaliser(carry, block):
            # The mean is that of score - top (times the total): small numbers, where scores are large.
            top, total, mean = carry
            scores = scores_of(scale * z, block)
            new = jnp.maximum(top, jnp.max(scores, axis=-1))
            old, away = jnp.exp(top - new), scores - new[:, None]
            e = jnp.exp(away)
            mean = (mean + total * (top - new)) * old + (e * away).sum(-1)
            return (new, total * old + e.sum(-1), mean), None

        zeros = jnp.zeros(z.shape[0], jnp.float32)
        (top, total, mean), _ = jax.lax.scan(normaliser, (zeros + NEVER, zeros, zeros), blocks)

        def mass(carry, block):
            p = jnp.exp(scores_of(scale * z, block) - top[:, None]) / total[:, None]
            return carry, dot(weights, p)[:, None]

        _, masses = jax.lax.scan(mass, None, blocks)
        return (jnp.log(total) - mean / total, top, jnp.log(total)), masses

    blocks = blocks_of(codebook)
    return by_tiles(tile, (z, weights), codebook.shape[0])


def _assign_gradient(z, weights, entropy, top, log_total, by_entropy, codebook, scale, by_mass):
    def tile(rows):
        z, weights, entropy, top, log_total, by_entropy = rows

        def log_p(block):
            return scores_of(scale * z, block) - top[:, None] - log_total[:, None]

        def average(mean, block):
            return mean + dot(jnp.exp(log_p(block)), block[2]), None

        mean, _ = jax.lax.scan(average, jnp.zeros_like(top), blocks)

        def gradient(dz, block):
            log = log_p(block)
            pulled = weights[:, None] * (block[2] - mean[:, None])
            d = scale * jnp.exp(log) * (pulled - by_entropy[:, None] * (log + entropy[:, None]))
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
    size = min(blocks_for(XLA).codes, codes)
    missing = -codes % size

    def split(x):
        return jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:])

    return split(codebook), split(jnp.ones(codes, bool)), *(split(x) for x in others)


def by_tiles(tile: Callable[[Any], tuple[Any, jax.Array]], rows: tuple[jax.Array, ...], codes: int) -> Any:
    """Outputs of every tile of tokens, and the sum over tiles of those per code ([steps, S] becomes [K]).

    Tiles are filled up with rows of zeros, which must not count.
    """
    count = rows[0].shape[0]
    size = min(blocks_for(XLA).tokens, count)
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
