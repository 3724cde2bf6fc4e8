"""The XLA implementation: element by element work that XLA fuses into its reductions."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt32

WORD = 32  # bits


def pack_and_sum(
    logits: Float[jax.Array, "M n"],
    weights: Float[jax.Array, " M"],
    temperature: float | jax.Array,
    interpret: bool = False,
) -> tuple[UInt32[jax.Array, "M W"], Float[jax.Array, "3 n"]]:
    """Packed bits, and sums over tokens of what is on, of probabilities and of their entropies.

    Args:
      logits: float32; a bit is on above 0.
      weights: of the tokens; one of 0 has words of 0 and counts nowhere, whatever its logits are.
      temperature: positive, of the probabilities.
      interpret: for kernels.
    """
    real = weights[:, None] > 0
    on = (logits > 0) & real
    count = -(-on.shape[1] // WORD)
    bits = jnp.pad(on, ((0, 0), (0, count * WORD - on.shape[1]))).reshape(on.shape[0], count, WORD)
    places = jnp.arange(WORD, dtype=jnp.uint32)
    words = jnp.sum(bits.astype(jnp.uint32) << places, axis=-1, dtype=jnp.uint32)
    terms = (on.astype(jnp.float32), *probability_and_entropy(logits / temperature))
    # Not a product with the weights: 0 times NaN is NaN.
    return words, jnp.stack([jnp.sum(jnp.where(real, x * weights[:, None], 0.0), axis=0) for x in terms])


def probability_and_entropy(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities of logits and the entropies of those in nats, accurate for large ones too."""
    size = jnp.abs(logits)
    small = jnp.exp(-size)
    unlikely = small / (1.0 + small)  # of the less likely of the two outcomes
    return jnp.where(logits > 0, 1.0 - unlikely, unlikely), jnp.log1p(small) + size * unlikely
