"""The baseline that knows nothing of dependence: every slot of every token drawn from its own marginal.

Marginals are of all images, or of each class.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Latents, Vocab
from jaxtok.decoding.logits import likeliest


def count_codes(
    codes: Int[jax.Array, "B N Q"], labels: Int[jax.Array, " B"], space: CodeSpace, classes: int
) -> Float[jax.Array, "K N V"]:
    """How often each value of each slot occurs per class and token; V is the sum of the levels.

    Labels are clipped to [0, classes), so that one class counts everything together.
    """
    ids = Vocab(space).from_codes(codes)
    counts = jnp.zeros((classes, codes.shape[1], sum(space.levels)), jnp.float32)
    rows = jnp.clip(labels, 0, classes - 1)[:, None, None]
    return counts.at[rows, jnp.arange(codes.shape[1])[:, None], ids].add(1.0)


def slot_log_probabilities(
    counts: Float[jax.Array, "K N V"], labels: Int[jax.Array, " B"], space: CodeSpace
) -> list[Float[jax.Array, "B N L"]]:
    """Log of the smoothed marginals `(count + 1/2) / (n + levels / 2)` given the class, an array per slot."""
    rows = counts[jnp.clip(labels, 0, counts.shape[0] - 1)] + 0.5
    edges = [sum(space.levels[:q]) for q in range(1, space.slots)]
    return [jnp.log(slot / jnp.sum(slot, axis=-1, keepdims=True)) for slot in jnp.split(rows, edges, axis=-1)]


def sample_independent(
    counts: Float[jax.Array, "K N V"], labels: Int[jax.Array, " B"], space: CodeSpace, key: jax.Array
) -> Latents:
    """Draws every slot from its smoothed marginal given the class.

    Args:
      counts: from `count_codes`.
      labels: class of each sample.
      space: the code space.
      key: scalar, or one key per example.
    """
    keys = random.example_keys(key, labels.shape[0])
    slots = [
        likeliest(logits + random.gumbel(random.fold(keys, q), logits.shape[1:]))
        for q, logits in enumerate(slot_log_probabilities(counts, labels, space))
    ]
    return Latents(codes=jnp.stack(slots, axis=-1).astype(jnp.int32))


def independent_nll(
    counts: Float[jax.Array, "K N V"],
    codes: Int[jax.Array, "B N Q"],
    labels: Int[jax.Array, " B"],
    space: CodeSpace,
) -> Float[jax.Array, ""]:
    """Mean negative log-likelihood per slot in nats."""
    per_slot = [
        jnp.take_along_axis(logits, codes[..., q, None], axis=-1)
        for q, logits in enumerate(slot_log_probabilities(counts, labels, space))
    ]
    return -jnp.mean(jnp.stack(per_slot))
