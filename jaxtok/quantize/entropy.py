"""Entropies of soft assignments to binary codes, without ever holding a probability per token and code.

A token with independent bits has p(code) = prod_j p_j^{b_j} (1 - p_j)^{1 - b_j}, p_j = sigmoid(l_j), so that

    H(p) = sum_j H_b(p_j),           mean_i p_i = A^T B / N

where row i of A [N, 2^(d - d/2)] and B [N, 2^(d/2)] holds the probabilities of the higher and the lower half
of the bits. The average over tokens of all 2^d probabilities is thus one matrix product of two thin matrices;
blocks of tokens keep them small, and on a mesh every device adds up its own tokens. Everything is float32
nats.

    >>> import jax
    >>> from jaxtok.quantize.entropy import batch_entropy, sample_entropy
    >>> logits = 3 * jax.random.normal(jax.random.key(0), (4096, 2, 9))  # two groups of nine bits
    >>> float(sample_entropy(logits)) < float(batch_entropy(logits)) < 9 * 0.6932
    True
    >>> bool(batch_entropy(logits) < batch_entropy(logits, "factorised") + 1e-5)  # an upper bound
    True
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.kernels.spmd import over_tokens

BatchEntropy = Literal["exact", "factorised", "pooled"]
LogFloor = Literal["clamp", "add"]
FLOOR = 1e-5
_NUMBERS = 2**20  # that one array of a block of tokens may have


def bit_entropy(logits: Float[jax.Array, "*batch"]) -> Float[jax.Array, "*batch"]:
    """Entropy of Bernoulli(sigmoid(logits)), in nats: `softplus(l) - l sigmoid(l)`, exact for all logits."""
    size = jnp.abs(logits)
    return jnp.log1p(jnp.exp(-size)) + size * jax.nn.sigmoid(-size)


def floored_entropy(p: Float[jax.Array, "*batch K"], floor: LogFloor = "clamp") -> Float[jax.Array, "*batch"]:
    """`-sum p log(max(p, 1e-5))`, or with `p + 1e-5` in the logarithm, as the reference implementations have
    it.
    """
    inside = jnp.maximum(p, FLOOR) if floor == "clamp" else p + FLOOR
    return -jnp.sum(p * jnp.log(inside), axis=-1)


def joint_probabilities(logits: Float[jax.Array, "*batch n"]) -> Float[jax.Array, "*batch K"]:
    """Probabilities of all 2^n values of n independent bits, bit 0 fastest."""
    out = jnp.ones((*logits.shape[:-1], 1), jnp.float32)
    for j in range(logits.shape[-1]):
        logit = logits[..., j : j + 1]
        out = jnp.concatenate([out * jax.nn.sigmoid(-logit), out * jax.nn.sigmoid(logit)], axis=-1)
    return out


def mean_probabilities(
    logits: Float[jax.Array, "N G d"], weights: Float[jax.Array, " N"] | None = None
) -> Float[jax.Array, "G K"]:
    """Average over tokens of the probabilities of all 2^d codes, bit 0 fastest; exact.

    Args:
      logits: of each bit of each group being on.
      weights: 1 for real tokens and 0 for others; 1 if absent.
    """
    tokens, groups, bits = logits.shape
    low = bits // 2

    def block(logits, weights):
        high = joint_probabilities(logits[..., low:]) * weights[:, None, None]
        thin = joint_probabilities(logits[..., :low])
        return jnp.einsum("nga,ngb->gab", high, thin, precision="highest")

    weights = jnp.ones(tokens, jnp.float32) if weights is None else weights
    total = _sum(block, logits, weights, groups * 2 ** (bits - low))
    return total.reshape(groups, -1) / jnp.maximum(jnp.sum(weights), 1.0)


def sample_entropy(
    logits: Float[jax.Array, "N G d"], weights: Float[jax.Array, " N"] | None = None
) -> Float[jax.Array, ""]:
    """Entropy of a token's code, averaged over tokens and groups.

    Args:
      logits: of each bit of each group being on.
      weights: 1 for real tokens and 0 for others; 1 if absent.
    """
    weights = jnp.ones(logits.shape[0], jnp.float32) if weights is None else weights
    each = jnp.mean(jnp.sum(bit_entropy(logits), axis=-1), axis=-1)
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def floored_sample_entropy(
    logits: Float[jax.Array, "N G d"], weights: Float[jax.Array, " N"] | None = None
) -> Float[jax.Array, ""]:
    """`sample_entropy` with the floor of a reference implementation, `-sum_k p_k log(max(p_k, 1e-5))`.

    This is no sum over bits: all codes of a block of tokens are enumerated, in time N 2^d. The floor hardly
    moves the value but bends the gradients of unlikely codes; use it to train exactly as the reference does.
    """
    tokens, groups, bits = logits.shape
    weights = jnp.ones(tokens, jnp.float32) if weights is None else weights

    def block(logits, weights):
        return jnp.sum(jnp.mean(floored_entropy(joint_probabilities(logits)), axis=-1) * weights)

    return _sum(block, logits, weights, groups * 2**bits) / jnp.maximum(jnp.sum(weights), 1.0)


def batch_entropy(
    logits: Float[jax.Array, "N G d"],
    kind: BatchEntropy = "exact",
    weights: Float[jax.Array, " N"] | None = None,
    floor: LogFloor = "clamp",
) -> Float[jax.Array, ""]:
    """Entropy of the average code, averaged over groups.

    Args:
      logits: of each bit of each group being on.
      kind: "exact", over all 2^d codes of each group; "factorised", the sum of the entropies of the average
        of each bit, an upper bound that costs no joint alphabet (BSQ, arXiv 2406.07548); "pooled", exact over
        the average of all groups, which share an alphabet (WeTok, arXiv 2508.05599).
      weights: 1 for real tokens and 0 for others; 1 if absent.
      floor: how 1e-5 enters the logarithm; not for "factorised".
    """
    if kind == "factorised":
        weights = jnp.ones(logits.shape[0], jnp.float32) if weights is None else weights
        p = jnp.einsum("n,ngd->gd", weights, jax.nn.sigmoid(logits), precision="highest")
        p = jnp.clip(p / jnp.maximum(jnp.sum(weights), 1.0), 1e-7, 1 - 1e-7)
        return -jnp.mean(jnp.sum(p * jnp.log(p) + (1 - p) * jnp.log1p(-p), axis=-1))
    if kind not in ("exact", "pooled"):
        raise ValueError(f"batch_entropy={kind!r}; choose 'exact', 'factorised' or 'pooled'")
    mean = mean_probabilities(logits, weights)
    mean = jnp.mean(mean, axis=0, keepdims=True) if kind == "pooled" else mean
    return jnp.mean(floored_entropy(mean, floor))


def _sum(
    function: Callable[[jax.Array, jax.Array], jax.Array], logits: jax.Array, weights: jax.Array, size: int
) -> jax.Array:
    """`function(logits, weights)` summed over blocks of tokens; it makes arrays of `size` per token."""
    rows = max(_NUMBERS // size, 1)
    step = jax.checkpoint(function)  # the arrays of a block are made again for its gradient

    def local(logits, weights):
        tokens = logits.shape[0]
        if tokens <= rows:
            return step(logits, weights)
        padding = -tokens % rows
        parts = (
            jnp.pad(logits, ((0, padding), (0, 0), (0, 0))).reshape(-1, rows, *logits.shape[1:]),
            jnp.pad(weights, (0, padding)).reshape(-1, rows),
        )
        shape = jax.eval_shape(function, parts[0][0], parts[1][0])
        start = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.scan(lambda total, part: (total + step(*part), None), start, parts)[0]

    return over_tokens(local, (logits, weights), summed=True)
