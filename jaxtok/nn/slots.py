"""Codes going into a network and logits coming out, for any code space.

A binary space feeds its bits to one linear map and reads one logit per bit (the logit of "on"); any other
space sums one embedding per slot and reads `levels[q]` logits per slot, slot after slot.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Vocab
from jaxtok.kernels import lookup
from jaxtok.nn.linear import Dense


def head_width(space: CodeSpace) -> int:
    """Logits per token: Q for a binary space, else the sum of the levels."""
    return space.slots if space.is_binary else sum(space.levels)


class SlotEmbedding(nn.Module):
    """Codes int32 [B, N, Q] (a binary space also takes float bits) to one vector per token.

    Attributes:
      space: the code space.
      width: width of the vectors.
      dtype: computation dtype.
    """

    space: CodeSpace
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array) -> Float[jax.Array, "B N D"]:
        if self.space.is_binary:
            return Dense(self.width, dtype=self.dtype, name="bits")(codes.astype(self.dtype))
        vocab = Vocab(self.space)
        table = self.param("table", nn.initializers.normal(0.02), (vocab.size, self.width), jnp.float32)
        # Cast first: on a mesh that is what travels.
        return jnp.sum(lookup(table.astype(self.dtype), vocab.from_codes(codes)), axis=-2)


def embedded(embedding: SlotEmbedding, inputs: jax.Array) -> Float[jax.Array, "B N D"]:
    """What enters a network: codes int32 [B, N, Q] through its embedding, embeddings as they are."""
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        return embedding(inputs)
    return inputs.astype(embedding.dtype)


def slot_logits(logits: Float[jax.Array, "*batch F"], space: CodeSpace) -> list[Float[jax.Array, "*batch K"]]:
    """Cuts the logits of a token into one array per slot; a bit with logit o has the two logits (0, o)."""
    if space.is_binary:
        return [jnp.stack([jnp.zeros_like(o), o], axis=-1) for o in jnp.moveaxis(logits, -1, 0)]
    return jnp.split(logits, np.cumsum(space.levels)[:-1].tolist(), axis=-1)


def log_likelihood(
    logits: Float[jax.Array, "*batch F"],
    codes: Int[jax.Array | np.ndarray, "*batch Q"],
    space: CodeSpace,
    smoothing: float = 0.0,
) -> Float[jax.Array, "*batch Q"]:
    """Log-likelihood of each slot in nats under independent heads, float32.

    With smoothing e it is that of the target (1 - e) onehot(code) + e / levels (arXiv 1512.00567). Logits
    that are split over a mesh stay where they are; only numbers per slot travel.
    """
    logits, codes = logits.astype(jnp.float32), jnp.asarray(codes)
    if smoothing:
        exact = log_likelihood(logits, codes, space)
        means = [jnp.mean(jax.nn.log_softmax(slot, axis=-1), axis=-1) for slot in slot_logits(logits, space)]
        return (1 - smoothing) * exact + smoothing * jnp.stack(means, axis=-1)
    if space.is_binary:
        return -jax.nn.softplus(jnp.where(codes == 1, -logits, logits))
    if len(set(space.levels)) == 1:
        return _log_softmax_at(logits.reshape(*logits.shape[:-1], space.slots, -1), codes)
    per_slot = [_log_softmax_at(slot, codes[..., q]) for q, slot in enumerate(slot_logits(logits, space))]
    return jnp.stack(per_slot, axis=-1)


def _log_softmax_at(logits: Float[jax.Array, "*batch K"], codes: Int[jax.Array, "*batch"]):
    log_p = jax.nn.log_softmax(logits, axis=-1)
    # By comparison, not by index: a gather from logits whose last axis is split would collect them all.
    chosen = jnp.arange(logits.shape[-1]) == codes[..., None]
    return jnp.sum(jnp.where(chosen, log_p, 0.0), axis=-1)
