"""Entropies of soft assignments of bits, without ever holding a probability per token and code.

A token with independent bits has p(code) = prod_j p_j^{b_j} (1 - p_j)^{1 - b_j}, so that

    H(p) = sum_j H_b(p_j),           mean_i p_i = A^T B / N

where row i of A [N, 2^(d - d/2)] and B [N, 2^(d/2)] holds the probabilities of the higher and the lower half
of the bits. The average over tokens of all 2^d probabilities is thus one matrix product of two thin matrices;
blocks of tokens keep them small.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

LogFloor = Literal["clamp", "add"]
FLOOR = 1e-5
_BLOCK = 2048  # tokens whose thin matrices exist at a time


def bit_entropy(logits: Float[jax.Array, "*batch"]) -> Float[jax.Array, "*batch"]:
    """Entropy of Bernoulli(sigmoid(logits)), in nats: `softplus(l) - l sigmoid(l)`, exact for large logits
    too.
    """
    size = jnp.abs(logits)
    return jnp.log1p(jnp.exp(-size)) + size * jax.nn.sigmoid(-size)


def floored_entropy(p: Float[jax.Array, "*batch K"], floor: LogFloor = "clamp") -> Float[jax.Array, "*batch"]:
    """`-sum p log(max(p, 1e-5))`, or with `p + 1e-5` in the logarithm, as the reference implementations have
    it.
    """
    inside = jnp.maximum(p, FLOOR) if floor == "clamp" else p + FLOOR
    return -jnp.sum(p * jnp.log(inside), axis=-1)


def half_probabilities(logits: Float[jax.Array, "N n"]) -> Float[jax.Array, "N K"]:
    """Probabilities of all 2^n values of n bits, bit 0 fastest."""
    out = jnp.ones((logits.shape[0], 1), jnp.float32)
    for j in range(logits.shape[1]):
        p = jax.nn.sigmoid(logits[:, j : j + 1])
        out = jnp.concatenate([out * jax.nn.sigmoid(-logits[:, j : j + 1]), out * p], axis=1)
    return out


def mean_probabilities(
    logits: Float[jax.Array, "N d"], weights: Float[jax.Array, " N"] | None = None
) -> Float[jax.Array, " K"]:
    """Average over tokens of the probabilities of all 2^d codes, bit 0 fastest; exact.

    Args:
      logits: of each bit being on.
      weights: 1 for real tokens and 0 for others; 1 if absent.
    """
    tokens, bits = logits.shape
    weights = jnp.ones(tokens, jnp.float32) if weights is None else weights
    low = bits // 2

    @jax.checkpoint
    def block(part):
        logits, weights = part
        high = half_probabilities(logits[:, low:]) * weights[:, None]
        return jnp.dot(high.T, half_probabilities(logits[:, :low]), precision="highest")

    if tokens <= _BLOCK:
        total = block((logits, weights))
    else:
        padding = -tokens % _BLOCK
        parts = (
            jnp.pad(logits, ((0, padding), (0, 0))).reshape(-1, _BLOCK, bits),
            jnp.pad(weights, (0, padding)).reshape(-1, _BLOCK),
        )
        start = jnp.zeros((2 ** (bits - low), 2**low), jnp.float32)
        total, _ = jax.lax.scan(lambda sum_, part: (sum_ + block(part), None), start, parts)
    return total.reshape(-1) / jnp.maximum(jnp.sum(weights), 1.0)
