"""IBQ: index backpropagation, a codebook that is updated as a whole (arXiv 2412.02692).

    l = z E^T,  k = argmax l,  p = softmax(l),  q = E[k],  value = (onehot(k) + p - sg(p)) E

The choice is by inner product, like that of a classifier whose weights are the codes. Forward, the value is
E[k]; backward, the gradient goes through p to the features and to every code, so that none falls out of use.
Losses:

    w_index |value - z|^2 + w_commitment |z - sg(q)|^2 + w_codebook |sg(z) - q|^2
        + w_entropy (mean_n H(p'_n) - diversity H(mean_n p'_n)),   p' = softmax(l / T)

Scores of all tokens and codes are never kept: see `jaxtok.quantize.soft_assignment` for what that costs. A
token has one slot; 262,144 codes are the paper's largest.

    >>> import jax
    >>> from jaxtok.quantize.ibq import IBQ
    >>> quantizer = IBQ(codes=1024, width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> sorted(out.losses)
    ['codebook', 'commitment', 'entropy', 'index']
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.kernels import lookup, nearest_code
from jaxtok.quantize.config import QuantizerConfig, fields_of
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.routing import masked, masked_mean, propagate_nonfinite
from jaxtok.quantize.soft_assignment import assignment_entropies, propagate_indices


class IBQ(FixedStateQuantizer):
    """Index backpropagation.

    Attributes:
      codes: K, codebook size.
      width: D of the features.
      index_weight: of `mean |value - z|^2`, whose gradient reaches all codes.
      commitment: weight of `mean |z - sg(q)|^2`.
      codebook_weight: of `mean |sg(z) - q|^2`, at the chosen codes.
      entropy_weight: of the entropy term; 0 saves its passes over the codebook.
      diversity: weight of the entropy of the mean assignment in it.
      entropy_temperature: T of the assignments in it.
    """

    codes: int
    width: int
    index_weight: float = 1.0
    commitment: float = 1.0
    codebook_weight: float = 0.25
    entropy_weight: float = 0.05
    diversity: float = 1.0
    entropy_temperature: float = 0.01

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels."""
        return CodeSpace((self.codes,))

    def setup(self):
        def start(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -1 / self.codes, 1 / self.codes)

        self.codebook = self.param("codebook", start, (self.codes, self.width))

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
          train: not used: there is no noise.
          key: not used.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` with the weighted losses "index", "commitment", "codebook" and "entropy", and the
          statistics "counts" (see `jaxtok.quantize.counting`).
        """
        del train, key, temperature
        z, codebook = masked(z.astype(jnp.float32), mask), jnp.asarray(self.codebook)
        codes = self._choose(z)
        flat = propagate_indices(z.reshape(-1, self.width), codebook, codes.reshape(-1))
        values, chosen = propagate_nonfinite(flat.reshape(z.shape), z), lookup(codebook, codes[..., 0])
        stop = jax.lax.stop_gradient
        losses = {
            "index": self.index_weight * masked_mean(jnp.square(values - z), mask),
            "commitment": self.commitment * masked_mean(jnp.square(z - stop(chosen)), mask),
            "codebook": self.codebook_weight * masked_mean(jnp.square(stop(z) - chosen), mask),
        }
        if self.entropy_weight:
            each, mean = assignment_entropies(z, codebook, self.entropy_temperature, mask)
            losses["entropy"] = self.entropy_weight * (each - self.diversity * mean)
        statistics = joint_counts(codes, self.space.levels, mask)
        return Quantized(masked(values, mask), masked(codes, mask), losses, statistics)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N 1"]:
        """Codes of the largest inner products, int32; 0 where the mask is False."""
        return masked(self._choose(z.astype(jnp.float32)), mask)

    def decode(self, codes: Int[jax.Array, "B N 1"]) -> Float[jax.Array, "B N D"]:
        """Code vectors, float32."""
        return lookup(self.codebook, codes[..., 0])

    def _choose(self, z):
        codes = nearest_code(z.reshape(-1, self.width), self.codebook, metric="dot")
        return codes.reshape(*z.shape[:-1], 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IBQConfig(QuantizerConfig):
    """Index backpropagation, see `IBQ`.

    Attributes:
      codes: K, codebook size.
      index_weight: of `mean |value - z|^2`, whose gradient reaches all codes.
      commitment: weight of `mean |z - sg(q)|^2`.
      codebook_weight: of `mean |sg(z) - q|^2`, at the chosen codes.
      entropy_weight: of the entropy term; 0 saves its passes over the codebook.
      diversity: weight of the entropy of the mean assignment in it.
      entropy_temperature: of the assignments in it.
    """

    kind = "ibq"

    codes: int = 1024
    index_weight: float = 1.0
    commitment: float = 1.0
    codebook_weight: float = 0.25
    entropy_weight: float = 0.05
    diversity: float = 1.0
    entropy_temperature: float = 0.01

    def build(self, width: int) -> IBQ:
        """See `QuantizerConfig.build`."""
        return IBQ(width=width, **fields_of(self))
