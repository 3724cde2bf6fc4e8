"""Sampling the slots of a token from its logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace
from jaxtok.decoding.logits import LogitRules, likeliest
from jaxtok.nn.slots import slot_logits


def sample_slots(
    logits: Float[jax.Array, "B *rest F"],
    space: CodeSpace,
    keys: jax.Array,
    temperature: float = 1.0,
    rules: LogitRules | None = None,
) -> Int[jax.Array, "B *rest Q"]:
    """Draws every slot independently from `softmax(logits / temperature)`.

    Args:
      logits: see `jaxtok.nn.slots`.
      space: the code space.
      keys: one key per example [B].
      temperature: at 0 the most likely value is taken (a tie goes to the lowest).
      rules: what else changes the logits of a slot before it is drawn, after the temperature.

    Returns:
      int32 codes.

    Raises:
      ValueError: a negative temperature.
    """
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be at least 0 (0 takes the most likely value)")
    rules = LogitRules() if rules is None else rules
    if space.is_binary and rules == LogitRules():
        return _sample_bits(logits.astype(jnp.float32), keys, temperature)
    codes = []
    for q, slot in enumerate(slot_logits(logits.astype(jnp.float32), space)):
        if temperature > 0:
            slot = rules(slot / temperature) + random.gumbel(random.fold(keys, q), slot.shape[1:])
        codes.append(likeliest(slot))
    return jnp.stack(codes, axis=-1)


def _sample_bits(logits, keys, temperature):
    """All bits of all tokens in one draw."""
    if temperature == 0:
        return (logits > 0).astype(jnp.int32)
    return random.bernoulli(keys, jax.nn.sigmoid(logits / temperature)).astype(jnp.int32)
