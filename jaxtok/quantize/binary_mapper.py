"""Binary mapper: sampled bits whose joint value is an index (Free Transformer, arXiv 2510.17558).

    b_j ~ Bernoulli(sigmoid(l_j / T)),   k = sum_j b_j 2^j,   value = onehot(k) + G - sg(G)
    G_k = prod_j sigmoid(+l_j if bit j of k is on else -l_j),   sum_k G_k = 1

The gradient is that of the distribution G of all 2^n indices under independent bits, whatever T was. With
`width` the one-hot vector is multiplied by a table. The loss lets each token carry a few bits for free:

    KL = relu(n log 2 - sum_j H(b_j) - threshold),   in nats; threshold = log 2 is one bit

G costs 2^n numbers per token in training: up to some 16 bits; more belong to `jaxtok.quantize.binary`.

    >>> import jax
    >>> from jaxtok.quantize.binary_mapper import BinaryMapper
    >>> quantizer = BinaryMapper(bits=6, width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z, train=True, key=jax.random.key(2))
    >>> out.codes.shape, quantizer.space.levels, sorted(out.losses)
    ((4, 8, 1), (64,), ['divergence'])
    >>> out = quantizer.apply(variables, z)
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import lookup
from jaxtok.quantize.binary import sample_bits
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import masked, masked_mean


def index_of(bits: Bool[jax.Array, "*batch n"]) -> Int[jax.Array, "*batch"]:
    """`sum_j b_j 2^j`, int32: bit 0 is the lowest."""
    return jnp.asarray(CodeSpace.binary(bits.shape[-1]).join(bits.astype(jnp.int32)))


def joint_distribution(logits: Float[jax.Array, "*batch n"]) -> Float[jax.Array, "*batch K"]:
    """Probabilities G of all K = 2^n indices under independent bits; they sum to 1."""
    p = jax.nn.sigmoid(logits)
    q = jax.nn.sigmoid(-logits)  # not 1 - p, which is 0 where p rounds to 1
    joint = jnp.ones((*logits.shape[:-1], 1), jnp.float32)
    for j in range(logits.shape[-1]):
        joint = jnp.concatenate([joint * q[..., j : j + 1], joint * p[..., j : j + 1]], axis=-1)
    return joint


def log_probability(
    logits: Float[jax.Array, "*batch n"], index: Int[jax.Array, "*batch"]
) -> Float[jax.Array, "*batch"]:
    """`log G_index`, in nats, without the other 2^n - 1."""
    bits = (index[..., None] >> jnp.arange(logits.shape[-1])) & 1
    return jnp.sum(jax.nn.log_sigmoid(jnp.where(bits == 1, logits, -logits)), axis=-1)


def bit_entropy(logits: Float[jax.Array, "*batch n"]) -> Float[jax.Array, "*batch"]:
    """Entropy of all bits of a token, `sum_j H(sigmoid(l_j))`, in nats."""
    p = jax.nn.sigmoid(logits)
    # H = log(1 + e^l) - p l: no logarithm of a number that may be 0.
    return jnp.sum(jax.nn.softplus(logits) - p * logits, axis=-1)


def divergence(logits: Float[jax.Array, "*batch n"], threshold: float) -> Float[jax.Array, "*batch"]:
    """`relu(n log 2 - entropy - threshold)`: nats that a token carries beyond those that are free."""
    return jax.nn.relu(logits.shape[-1] * math.log(2) - bit_entropy(logits) - threshold)


class BinaryMapper(FixedStateQuantizer):
    """Sampled bits as one index.

    Attributes:
      bits: n; the alphabet has 2^n indices.
      width: D of features and values, with a linear map to the logits and a table of 2^n embeddings; 0 takes
        the features as logits and gives one-hot vectors.
      temperature: T of the sampling in training; 0 thresholds instead.
      threshold: nats per token that the loss leaves free.
      divergence_weight: of the loss "divergence".
      straight_through: whether values have the gradient of G, or none to the logits.
    """

    bits: int
    width: int = 0
    temperature: float = 1.0
    threshold: float = math.log(2)
    divergence_weight: float = 1.0
    straight_through: bool = True

    @property
    def space(self) -> CodeSpace:
        """One slot of 2^n levels."""
        return CodeSpace((2**self.bits,))

    def setup(self):
        if not 1 <= self.bits <= 24:
            raise ValueError(
                f"bits={self.bits}: 2^bits numbers per token are computed; choose 1 to 24, or use "
                "jaxtok.quantize.binary"
            )
        if self.width:
            self.projection = linear(self.bits)
            self.embedding = self.param("embedding", nn.initializers.normal(0.02), (2**self.bits, self.width))

    def logits(self, z: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N n"]:
        """Bit logits, float32."""
        z = z.astype(jnp.float32)
        return self.projection(z) if self.width else z

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
          z: features, or logits when there is no `width`.
          train: sample the bits instead of thresholding them.
          key: scalar key or one key per example; only for training, default the "quantizer" stream of `rngs`.
          temperature: replaces the attribute of that name (for annealing).
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the weighted loss "divergence" and the statistics "counts" (see
          `jaxtok.quantize.counting`).
        """
        logits = self.logits(masked(z, mask))
        temperature = self.temperature if temperature is None else temperature
        bits = logits > 0
        if train and not (isinstance(temperature, int | float) and temperature == 0):
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
            bits = sample_bits(logits, temperature, keys)
        index = index_of(bits)
        values = self._values(index)
        if self.straight_through:
            joint = joint_distribution(logits)
            if self.width:  # the table gets the gradient of the choice alone
                joint = jnp.dot(joint, jax.lax.stop_gradient(self.embedding), precision="highest")
            values = values + (joint - jax.lax.stop_gradient(joint))
        loss = self.divergence_weight * masked_mean(divergence(logits, self.threshold), mask)
        codes = index[..., None]
        statistics = joint_counts(codes, self.space.levels, mask)
        return Quantized(masked(values, mask), masked(codes, mask), {"divergence": loss}, statistics)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N 1"]:
        """Index of the thresholded bits, int32; 0 where the mask is False."""
        return masked(index_of(self.logits(z) > 0)[..., None], mask)

    def decode(self, codes: Int[jax.Array, "B N 1"]) -> Float[jax.Array, "B N D"]:
        """Embeddings of indices, or one-hot vectors, float32."""
        return self._values(codes[..., 0])

    def _values(self, index):
        return lookup(self.embedding, index) if self.width else jax.nn.one_hot(index, 2**self.bits)
