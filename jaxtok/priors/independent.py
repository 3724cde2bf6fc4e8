"""The baseline that knows nothing of dependence: every slot of every token drawn from its own marginal, per
class.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Latents, Vocab


def count_codes(
    codes: Int[jax.Array, "B N Q"], labels: Int[jax.Array, " B"], space: CodeSpace, classes: int
) -> Float[jax.Array, "K N V"]:
    """How often each value of each slot occurs per class and token; V is the sum of the levels, rows without
    class (-1) go to 0.
    """
    ids = Vocab(space).from_codes(codes)
    counts = jnp.zeros((classes, codes.shape[1], sum(space.levels)), jnp.float32)
    rows = jnp.maximum(labels, 0)[:, None, None]
    return counts.at[rows, jnp.arange(codes.shape[1])[:, None], ids].add(1.0)


def sample_independent(
    counts: Float[jax.Array, "K N V"], labels: Int[jax.Array, " B"], space: CodeSpace, key: jax.Array
) -> Latents:
    """Draws every slot from its smoothed marginal, `(count + 1/2) / (n + levels / 2)`, given the class.

    Args:
      counts: from `count_codes`.
      labels: class of each sample.
      space: the code space.
      key: scalar, or one key per example.
    """
    keys = random.example_keys(key, labels.shape[0])
    logits = jnp.log(counts[jnp.maximum(labels, 0)] + 0.5)
    slots, first = [], 0
    for q, level in enumerate(space.levels):
        slot = logits[..., first : first + level]
        slots.append(jnp.argmax(slot + random.gumbel(random.fold(keys, q), slot.shape[1:]), axis=-1))
        first += level
    return Latents(codes=jnp.stack(slots, axis=-1).astype(jnp.int32))
