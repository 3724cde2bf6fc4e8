"""The public functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, UInt32

from jaxtok.codes import Array, pytree_dataclass
from jaxtok.kernels import spmd
from jaxtok.kernels.binary_codes import reference
from jaxtok.kernels.binary_codes.reference import WORD
from jaxtok.kernels.dispatch import Implementation, choose

_IMPLEMENTATIONS = {
    "xla": reference.pack_and_sum,
    "pallas_tpu": "jaxtok.kernels.binary_codes.tpu:pack_and_sum",
    "pallas_gpu": "jaxtok.kernels.binary_codes.gpu:pack_and_sum",
}


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
    temperature: float | jax.Array = 1.0,
    mask: jax.Array | None = None,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> BinaryCodes:
    """Thresholds logits (a bit is on where its logit is above 0), packs the bits and adds up statistics.

    The Pallas kernels read the logits once; XLA reads them once for the words and once for the sums. On a
    mesh every device packs its own tokens and the sums are added.

    Args:
      logits: any float dtype; NaN is off.
      temperature: T of the probabilities.
      mask: bool [M] of real tokens; the others have words of 0 and count nowhere.
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None for the best one here.
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      See `BinaryCodes`. No gradient flows.

    Raises:
      ValueError: a temperature that is not positive, or an implementation that cannot run here.
    """
    function = choose("binary_codes", implementation, _IMPLEMENTATIONS, interpret)
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    logits = jax.lax.stop_gradient(jnp.asarray(logits, jnp.float32))
    tokens, bits = logits.shape
    weights = jnp.ones(tokens, jnp.float32) if mask is None else jnp.asarray(mask, jnp.float32)
    if not tokens or not bits:
        function = reference.pack_and_sum

    def local(logits, weights, temperature):
        return function(logits, weights, temperature, interpret=interpret)

    shared = (jax.lax.stop_gradient(jnp.asarray(temperature, jnp.float32)),)
    words, (on, probability, entropy) = spmd.over_tokens(local, (logits, weights), shared, (False, True))
    return BinaryCodes(words, on, jnp.sum(weights), probability, entropy)


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
