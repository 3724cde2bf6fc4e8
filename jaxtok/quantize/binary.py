"""Binary latents: every token is a vector of independent bits (Instella-T2I, arXiv 2506.21022).

    p = sigmoid(z),  b ~ Bernoulli(sigmoid(z / T)) in training,  b = 1[p > 1/2] in evaluation,  q = b @ E

The alphabet of n bits has 2^n tokens and no codebook: a token's embedding is the sum of the embeddings of its
ON bits.

    >>> import jax, jax.numpy as jnp
    >>> from jaxtok.quantize.binary import BinaryQuantizer
    >>> quantizer = BinaryQuantizer(bits=16, width=32)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 32))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> codes = quantizer.apply(variables, z, method="encode")
    >>> codes.shape, quantizer.space.bits
    ((4, 8, 16), 16.0)
    >>> out = quantizer.apply(variables, z)
    >>> bool((out.values == quantizer.apply(variables, codes, method="decode")).all())
    True
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import masked, masked_mean


def straight_through_bits(
    logits: Float[jax.Array, "*batch n"], bits: jax.Array
) -> Float[jax.Array, "*batch n"]:
    """Bits whose gradient is that of `sigmoid(logits)`: `b + (p - stop_gradient(p))`.

    The forward value is exactly `bits`. The sampling temperature does not enter the gradient.
    """
    p = jax.nn.sigmoid(logits)
    return bits.astype(jnp.float32) + (p - jax.lax.stop_gradient(p))


def sample_bits(
    logits: Float[jax.Array, "B *rest n"], temperature: float | jax.Array, keys: jax.Array
) -> jax.Array:
    """`b ~ Bernoulli(sigmoid(logits / temperature))`, bool, one key per example [B]."""
    return random.bernoulli(keys, jax.nn.sigmoid(logits / temperature))


def bit_regulariser(
    logits: Float[jax.Array, "*batch n"], mask: jax.Array | None = None
) -> Float[jax.Array, ""]:
    """`mean(p (1 - p))` with p = sigmoid(logits): in [0, 1/4], 0 exactly where every bit is saturated.

    Args:
      logits: of the bits.
      mask: bool, the leading axes of the logits, True where a token is real.
    """
    p = jax.nn.sigmoid(logits)
    return masked_mean(p * (1 - p), mask)


class BinaryQuantizer(FixedStateQuantizer):
    """Projects features to n bit logits, thresholds or samples them, and embeds the bits.

    Everything is float32 whatever the dtype of the features: a logit that changes sign by rounding is another
      code.

    Attributes:
      bits: n, bits per token.
      width: width of the embedding of a token.
      temperature: T of the Bernoulli sampling in training; 0 trains with the thresholded bits.
    """

    bits: int
    width: int
    temperature: float = 0.1

    @property
    def space(self) -> CodeSpace:
        """Q = n slots of two levels."""
        return CodeSpace.binary(self.bits)

    def setup(self):
        self.projection = linear(self.bits)
        self.embedding = self.param(
            "embedding", nn.initializers.normal(0.02), (self.bits, self.width), jnp.float32
        )

    def logits(self, z: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N n"]:
        """Bit logits, float32."""
        return self.projection(z.astype(jnp.float32))

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: sample the bits instead of thresholding them.
          key: scalar key or one key per example; only for training, default the "quantizer" stream of `rngs`.
          temperature: replaces the attribute of that name (for annealing).
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the loss "bits" (`bit_regulariser`) and the statistics "on" float32 [n] (how many
          tokens have each bit on) and "tokens" float32 [].
        """
        logits = self.logits(masked(z, mask))
        temperature = self.temperature if temperature is None else temperature
        hard = logits > 0
        if train and not (isinstance(temperature, int | float) and temperature == 0):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
            hard = sample_bits(logits, temperature, keys)
        codes = masked(hard.astype(jnp.int32), mask)
        statistics = {
            "on": jnp.sum(codes, axis=(0, 1)).astype(jnp.float32),
            "tokens": jnp.float32(codes.shape[0] * codes.shape[1])
            if mask is None
            else jnp.sum(mask, dtype=jnp.float32),
        }
        values = masked(self._embed(straight_through_bits(logits, hard)), mask)
        return Quantized(values, codes, {"bits": bit_regulariser(logits, mask)}, statistics)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N n"]:
        """Thresholded bits, int32 in {0, 1}; 0 where the mask is False."""
        return masked((self.logits(z) > 0).astype(jnp.int32), mask)

    def decode(self, codes: Shaped[jax.Array, "B N n"]) -> Float[jax.Array, "B N D"]:
        """Sum of the embeddings of the ON bits, float32. Bits may also be given as floats, for "
        "interpolation."""
        return self._embed(codes.astype(jnp.float32))

    def _embed(self, bits):
        # HIGHEST: on accelerators the default product rounds its inputs to bfloat16, and the embeddings are
        # not bfloat16.
        flat = bits.reshape(-1, self.bits)
        return jnp.dot(flat, self.embedding, precision="highest").reshape(*bits.shape[:-1], self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryConfig(QuantizerConfig):
    """Binary latents, see `BinaryQuantizer`.

    Attributes:
      bits: n, bits per token of binary latents.
      temperature: of the bit sampling in training, at its end if it is annealed; 0 trains with the
        thresholded bits.
    """

    kind = "binary"

    bits: int = 16
    temperature: float = 0.1

    def build(self, width: int) -> BinaryQuantizer:
        """See `QuantizerConfig.build`."""
        return BinaryQuantizer(width=width, **fields_of(self))

    @property
    def sampling_temperature(self) -> float | None:
        """See `QuantizerConfig.sampling_temperature`."""
        return self.temperature
