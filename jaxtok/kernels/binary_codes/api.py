"""The public functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, UInt32

from jaxtok.codes import Array, pytree_dataclass
from jaxtok.kernels import spmd
from jaxtok.kernels.dispatch import Implementation, choose

WORD = 32  # bits


@pytree_dataclass()
class BinaryCodes:
    """Bits of a batch of tokens.

    Attributes:
      words: uint32 [M, ceil(n / 32)], bit j of a token in bit j % 32 of word j // 32.
      on: float32 [n], how many tokens have each bit on.
      tokens: float32 [], how many tokens there are.
      probability: float32 [n], sum over tokens of sigmoid(logits / temperature).
      entropy: float32 [n], sum over tokens of the entropies of those probabilities, in nats.
    """

    words: Any
    on: Any
    tokens: Any
    probability: Any
    entropy: Any


def binary_codes(
    logits: Float[Array, "M n"],
    *,
    temperature: float = 1.0,
    mask: jax.Array | None = None,
    implementation: Implementation | None = None,
) -> BinaryCodes:
    """Thresholds logits (a bit is on where its logit is above 0), packs the bits and adds up statistics.

    XLA fuses the elementwise work into its reductions on every platform, so there is no other
    implementation. On a mesh every device packs its own tokens and the sums are added.

    Args:
      logits: any float dtype; NaN is off.
      temperature: T of the probabilities.
      mask: bool [M] of real tokens; the others have words of 0 and count nowhere.
      implementation: "xla", or None.

    Returns:
      See `BinaryCodes`. No gradient flows.

    Raises:
      ValueError: a temperature that is not positive, or an implementation that does not exist.
    """
    choose("binary_codes", implementation, {"xla": binary_codes})
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    logits = jax.lax.stop_gradient(jnp.asarray(logits, jnp.float32))
    weights = jnp.ones(logits.shape[0], jnp.float32) if mask is None else jnp.asarray(mask, jnp.float32)

    def words(logits, weights):
        on = ((logits > 0) & (weights[:, None] > 0)).astype(jnp.uint32)
        count = -(-on.shape[1] // WORD)
        on = jnp.pad(on, ((0, 0), (0, count * WORD - on.shape[1]))).reshape(on.shape[0], count, WORD)
        return jnp.sum(on << jnp.arange(WORD, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)

    def sums(logits, weights):
        scaled = logits / temperature
        size = jnp.abs(scaled)
        entropy = jnp.log1p(jnp.exp(-size)) + size * jax.nn.sigmoid(-size)
        add = lambda x: jnp.sum(x * weights[:, None], axis=0)
        return (
            add((logits > 0).astype(jnp.float32)),
            jnp.sum(weights),
            add(jax.nn.sigmoid(scaled)),
            add(entropy),
        )

    on, tokens, probability, entropy = spmd.over_tokens(sums, (logits, weights), summed=True)
    return BinaryCodes(spmd.over_tokens(words, (logits, weights)), on, tokens, probability, entropy)


def unpack_words(words: UInt32[Array, "*batch W"], bits: int) -> Bool[jax.Array, "*batch n"]:
    """The bits of `BinaryCodes.words`.

    Args:
      words: packed bits.
      bits: n, how many of them there are.

    Raises:
      ValueError: more bits than the words hold.
    """
    words = jnp.asarray(words)
    if bits > words.shape[-1] * WORD:
        raise ValueError(f"{bits} bits do not fit {words.shape[-1]} words of {WORD}")
    spread = (words[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return spread.reshape(*words.shape[:-1], words.shape[-1] * WORD)[..., :bits] == 1
