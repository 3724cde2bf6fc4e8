"""Softmax assignments of tokens to codes, streamed: no score per token and code is ever kept.

    l_nk = scale z_n . e_k,   p_n = softmax(l_n)

Two functions with gradients of their own: `propagate_indices` (a hard look-up with the gradient of the soft
one) and `soft_assignment` (entropy per token, and how much of the tokens each code gets). Both walk over
tiles of tokens times blocks of codes, compute the scores of a tile again wherever they are needed, and keep
only numbers per token.

Cost in products of tokens with codes, forward and backward, against keeping all scores: 0 + 6 against 1 + 4
for `propagate_indices`, 2 + 4 against 1 + 2 for `soft_assignment`. Memory beside inputs and outputs: one
tile.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxtok.kernels import lookup, spmd
from jaxtok.kernels.nearest_code.shapes import XLA, blocks_for

_NEVER = -1e30  # score of a code that is not there; finite, so that 0 times it is 0


@jax.custom_vjp
def propagate_indices(
    z: Float[jax.Array, "M D"], codebook: Float[jax.Array, "K D"], codes: Int[jax.Array, " M"]
) -> Float[jax.Array, "M D"]:
    """Looks codes up, with the gradient of the soft look-up beside that of the hard one (arXiv 2412.02692).

        value = o E,   o = onehot(codes) + (p - sg(p)),   p = softmax(z E^T)

    The forward value is exactly `E[codes]`. The gradient reaches the chosen codes directly, and z and every
    code through p.
    """
    return lookup(codebook, codes)


def _propagate_forward(z, codebook, codes):
    return lookup(codebook, codes), (z, codebook, codes)


def _propagate_backward(saved, g):
    z, codebook, codes = saved
    dz, soft = _over_tokens(_propagate_gradient, (z, g), (codebook,))
    return dz, soft.at[codes].add(g), None


propagate_indices.defvjp(_propagate_forward, _propagate_backward)


def _propagate_gradient(z, g, codebook):
    def tile(rows):
        z, g = rows

        def average(carry, block):
            top, total, mean = carry
            scores = _scores(z, block)
            new = jnp.maximum(top, jnp.max(scores, axis=-1))
            old, weights = jnp.exp(top - new), jnp.exp(scores - new[:, None])
            gain = _dot(g, block[0].T)
            return (new, total * old + weights.sum(-1), mean * old + (weights * gain).sum(-1)), None

        zeros = jnp.zeros(z.shape[0], jnp.float32)
        (top, total, mean), _ = jax.lax.scan(average, (zeros + _NEVER, zeros, zeros), blocks)

        def gradient(dz, block):
            p = jnp.exp(_scores(z, block) - top[:, None]) / total[:, None]
            d = p * (_dot(g, block[0].T) - (mean / total)[:, None])
            return dz + _dot(d, block[0]), _dot(d.T, z)

        return jax.lax.scan(gradient, jnp.zeros_like(z), blocks)

    blocks = _blocks(codebook)
    return _by_tiles(tile, (z, g), codebook.shape[0])


@jax.custom_vjp
def soft_assignment(
    z: Float[jax.Array, "M D"],
    codebook: Float[jax.Array, "K D"],
    scale: float,
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
    (entropy, top, log_total), mass = _over_tokens(_assign, (z, weights), (codebook, jnp.float32(scale)))
    return (entropy, mass[:, 0]), (z, codebook, scale, weights, entropy, top, log_total)


def _assignment_backward(saved, cotangent):
    z, codebook, scale, weights, entropy, top, log_total = saved
    by_entropy, by_mass = cotangent
    tokens = z, weights, entropy, top, log_total, by_entropy
    dz, dcodebook = _over_tokens(_assign_gradient, tokens, (codebook, jnp.float32(scale), by_mass))
    return dz, dcodebook, None, None


soft_assignment.defvjp(_assignment_forward, _assignment_backward)


def _assign(z, weights, codebook, scale):
    def tile(rows):
        z, weights = rows

        def normaliser(carry, block):
            # The mean is that of score - top (times the total): small numbers, where scores are large.
            top, total, mean = carry
            scores = _scores(scale * z, block)
            new = jnp.maximum(top, jnp.max(scores, axis=-1))
            old, away = jnp.exp(top - new), scores - new[:, None]
            e = jnp.exp(away)
            mean = (mean + total * (top - new)) * old + (e * away).sum(-1)
            return (new, total * old + e.sum(-1), mean), None

        zeros = jnp.zeros(z.shape[0], jnp.float32)
        (top, total, mean), _ = jax.lax.scan(normaliser, (zeros + _NEVER, zeros, zeros), blocks)

        def mass(carry, block):
            p = jnp.exp(_scores(scale * z, block) - top[:, None]) / total[:, None]
            return carry, _dot(weights, p)[:, None]

        _, masses = jax.lax.scan(mass, None, blocks)
        return (jnp.log(total) - mean / total, top, jnp.log(total)), masses

    blocks = _blocks(codebook)
    return _by_tiles(tile, (z, weights), codebook.shape[0])


def _assign_gradient(z, weights, entropy, top, log_total, by_entropy, codebook, scale, by_mass):
    def tile(rows):
        z, weights, entropy, top, log_total, by_entropy = rows

        def log_p(block):
            return _scores(scale * z, block) - top[:, None] - log_total[:, None]

        def average(mean, block):
            return mean + _dot(jnp.exp(log_p(block)), block[2]), None

        mean, _ = jax.lax.scan(average, jnp.zeros_like(top), blocks)

        def gradient(dz, block):
            log = log_p(block)
            pulled = weights[:, None] * (block[2] - mean[:, None])
            d = scale * jnp.exp(log) * (pulled - by_entropy[:, None] * (log + entropy[:, None]))
            return dz + _dot(d, block[0]), _dot(d.T, z)

        return jax.lax.scan(gradient, jnp.zeros_like(z), blocks)

    blocks = _blocks(codebook, by_mass)
    return _by_tiles(tile, (z, weights, entropy, top, log_total, by_entropy), codebook.shape[0])


def _dot(a, b):
    return jnp.dot(a, b, precision="highest")


def _scores(z, block):
    return jnp.where(block[1], _dot(z, block[0].T), _NEVER)


def _blocks(codebook, *others):
    """Codes [steps, S, D], whether they exist, and further arrays per code, by blocks."""
    codes = codebook.shape[0]
    size = min(blocks_for(XLA).codes, codes)
    missing = -codes % size

    def split(x):
        return jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:])

    return split(codebook), split(jnp.ones(codes, bool)), *(split(x) for x in others)


def _by_tiles(tile: Callable[[Any], tuple[Any, jax.Array]], rows: tuple[jax.Array, ...], codes: int) -> Any:
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


def _over_tokens(function, tokens, shared):
    """`function(*tokens, *shared)` with the tokens split over the data axes of the mesh.

    The function's first output leads with tokens, the second is a sum over them.
    """
    axes = spmd.auto_axes(spmd.TOKEN_AXES)
    if not tokens[0].shape[0] or not axes:
        return function(*tokens, *shared)
    count = tokens[0].shape[0]
    padding = -count % spmd.devices_of(axes)
    padded = [jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1))) for x in tokens]

    def local(*arguments):
        out, summed = function(*arguments)
        return out, jax.lax.psum(summed, axes)

    rows = PartitionSpec(axes)
    out, summed = jax.shard_map(
        local,
        in_specs=((rows,) * len(tokens)) + ((PartitionSpec(),) * len(shared)),
        out_specs=(rows, PartitionSpec()),
        check_vma=False,  # says nothing about sums over scans
    )(*padded, *shared)
    return jax.tree.map(lambda x: x[:count], out), summed
