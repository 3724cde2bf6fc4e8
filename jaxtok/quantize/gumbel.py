"""Gumbel-softmax quantization: codes are classes that are sampled (arXiv 1611.01144, 2102.12092).

    l = W z + b,   k = argmax l + g   (training; g Gumbel)   or   argmax l   (evaluation),   q = E[k]

In training the gradient is that of the relaxed sample `softmax((l + g) / T)`: hard samples carry it straight
through, soft ones are used as they are. The loss is the divergence from uniform use, `KL(softmax(l) || 1/K)`.

A logit per token and code is computed, as in any classifier; look at `jaxtok.quantize.ibq` for large
codebooks.

    >>> import jax
    >>> from jaxtok.quantize.gumbel import GumbelQuantizer
    >>> quantizer = GumbelQuantizer(codes=64, width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z, train=True, key=jax.random.key(2), temperature=0.5)
    >>> out.codes.shape, sorted(out.losses)
    ((4, 8, 1), ['divergence'])
    >>> out = quantizer.apply(variables, z)
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import lookup
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.linear import linear
from jaxtok.quantize.routing import masked, masked_mean


def relaxed_sample(
    logits: Float[jax.Array, "*batch K"], gumbel: jax.Array, temperature: float | jax.Array
) -> tuple[Int[jax.Array, "*batch"], Float[jax.Array, "*batch K"]]:
    """A sample of the classes, int32, and its relaxation `softmax((logits + gumbel) / temperature)`."""
    noisy = logits + gumbel
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32), jax.nn.softmax(noisy / temperature, axis=-1)


def divergence_from_uniform(logits: Float[jax.Array, "*batch K"]) -> Float[jax.Array, "*batch"]:
    """`KL(softmax(logits) || uniform) = log K - H`, in nats, at least 0."""
    log = jax.nn.log_softmax(logits, axis=-1)
    return jnp.sum(jnp.exp(log) * log, axis=-1) + jnp.log(logits.shape[-1])


class GumbelQuantizer(FixedStateQuantizer):
    """Sampled codes with relaxed gradients.

    Attributes:
      codes: K, codebook size.
      width: D of the features and of the codes.
      hard: whether values in training are single codes (straight-through), or mixtures of all of them.
      temperature: T of the relaxation.
      divergence_weight: of the loss "divergence".
    """

    codes: int
    width: int
    hard: bool = True
    temperature: float = 1.0
    divergence_weight: float = 5e-4

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels."""
        return CodeSpace((self.codes,))

    def setup(self):
        self.projection = linear(self.codes)
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.codes, self.width))

    def logits(self, z: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N K"]:
        """Logits of the codes, float32."""
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
          train: sample; otherwise the most likely code is taken, with the gradient of its relaxation.
          key: scalar key or one key per example; only for training, default the "quantizer" stream of `rngs`.
          temperature: replaces the attribute of that name (for annealing), above 0.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the weighted loss "divergence" and the statistics "counts" (see
          `jaxtok.quantize.counting`). In training with `hard=False` the values are mixtures, not code
          vectors.
        """
        logits = self.logits(masked(z, mask))
        gumbel = jnp.zeros(())
        if train:
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
            gumbel = random.gumbel(keys, logits.shape[1:])
        temperature = self.temperature if temperature is None else temperature
        return self.quantize(logits, gumbel, temperature, mask, hard=self.hard or not train)

    def quantize(
        self,
        logits: Float[jax.Array, "B N K"],
        gumbel: jax.Array,
        temperature: float | jax.Array,
        mask: jax.Array | None = None,
        hard: bool = True,
    ) -> Quantized:
        """The rest of the forward pass once noise is drawn; deterministic."""
        codes, soft = relaxed_sample(logits, gumbel, temperature)
        codebook = jnp.asarray(self.codebook)
        if hard:
            # The codes get the gradient of the hard choice alone, the logits that of the soft one.
            mixture = _mix(soft, jax.lax.stop_gradient(codebook))
            values = lookup(codebook, codes) + (mixture - jax.lax.stop_gradient(mixture))
        else:
            values = _mix(soft, codebook)
        loss = self.divergence_weight * masked_mean(divergence_from_uniform(logits), mask)
        codes = codes[..., None]
        statistics = joint_counts(codes, self.space.levels, mask)
        return Quantized(masked(values, mask), masked(codes, mask), {"divergence": loss}, statistics)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N 1"]:
        """Most likely codes, int32; 0 where the mask is False."""
        return masked(jnp.argmax(self.logits(z), axis=-1).astype(jnp.int32)[..., None], mask)

    def decode(self, codes: Int[jax.Array, "B N 1"]) -> Float[jax.Array, "B N D"]:
        """Code vectors, float32."""
        return lookup(self.codebook, codes[..., 0])


def _mix(soft, codebook):
    return jnp.dot(soft, codebook, precision="highest")
