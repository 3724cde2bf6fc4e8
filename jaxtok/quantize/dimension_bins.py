"""Quantization of trained latents channel by channel, without training (TokenBridge, arXiv 2503.16430).

    u = clip((z - offset) / scale, -R, R),   code = argmin_i |u - r_i|,   value = r_i scale + offset
    r_i = E[X | b_i < X < b_(i+1)],   b_i = clip(Phi^-1(i / L), -R, R),   X ~ N(0, 1)

The L bins between the b_i are equally likely under a standard normal, and each is represented by its mean.
(The nearest mean is taken, not the bin: the bins of the means lie a little further in.) By default offset
and scale map [low, high] to [-R, R], as the paper does; `initialise` takes mean and standard deviation of
each channel instead, which makes the codes of normal channels nearly equally likely.

Values are computed in float64. The paper's table is computed in float32, whose rounding, divided by the
probability of a bin, is 3e-5 at 8 bits; it can be put into the state as it is. When R is small for the
number of bins (R = 3: from 10 bits on) the outermost ones are empty; as in the paper's code their value is
0, and they are never chosen.

    >>> import jax
    >>> from jaxtok.quantize.dimension_bins import DimensionBins
    >>> quantizer = DimensionBins(levels=64, width=16)
    >>> z = jax.random.normal(jax.random.key(0), (4, 8, 16))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> out = quantizer.apply(variables, z)
    >>> out.codes.shape, quantizer.space.bits, out.losses
    ((4, 8, 16), 96.0, {})
    >>> bool((quantizer.apply(variables, out.codes, method="decode") == out.values).all())
    True
"""

import statistics
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.counting import joint_counts
from jaxtok.quantize.fixed_state import FixedStateQuantizer
from jaxtok.quantize.latent import nearest_value
from jaxtok.quantize.routing import masked, straight_through


def normal_bins(levels: int, reach: float) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " L"]]:
    """Boundaries of equally likely bins of a standard normal, B = L + 1, and the mean inside each; float32.

    Args:
      levels: L, number of bins.
      reach: R; boundaries are clipped to [-R, R]. Bins that this makes empty have value 0.
    """
    normal = statistics.NormalDist()
    quantiles = [normal.inv_cdf(i / levels) for i in range(1, levels)]
    boundaries = np.clip([-np.inf, *quantiles, np.inf], -reach, reach)
    density = np.array([normal.pdf(b) for b in boundaries])
    below = np.array([normal.cdf(b) for b in boundaries])
    share = np.diff(below)
    means = -np.diff(density) / np.where(share > 0, share, 1.0)
    return boundaries.astype(np.float32), np.where(share > 0, means, 0.0).astype(np.float32)


class DimensionBins(FixedStateQuantizer):
    """Equally likely bins of each channel.

    Attributes:
      levels: L, number of bins.
      width: D of the latents; each channel is one slot.
      low: what is mapped to -R at first.
      high: what is mapped to R at first.
      reach: R, standard deviations that the bins cover.
    """

    levels: int
    width: int
    low: float = -5.0
    high: float = 5.0
    reach: float = 3.0

    @property
    def space(self) -> CodeSpace:
        """One slot of L levels per channel."""
        return CodeSpace((self.levels,) * self.width)

    def setup(self):
        if self.levels < 2 or not self.low < self.high or self.reach <= 0:
            raise ValueError(
                f"levels={self.levels}, low={self.low}, high={self.high}, reach={self.reach}: needs at least "
                "two bins, low below high and a positive reach"
            )
        middle, scale = (self.low + self.high) / 2, (self.high - self.low) / (2 * self.reach)
        constants = {
            "values": normal_bins(self.levels, self.reach)[1],
            "offset": np.full(self.width, middle, np.float32),
            "scale": np.full(self.width, scale, np.float32),
        }
        self.state = {
            name: self.variable("quantizer", name, jnp.asarray, value).value
            for name, value in constants.items()
        }

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes latents.

        Args:
          z: latents.
          train: not used: there is no noise.
          key: not used.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` without losses, its gradient straight through; counts as `jaxtok.quantize.counting`
          gives them.
        """
        del train, key, temperature
        z = masked(z.astype(jnp.float32), mask)
        codes = self._nearest(z)
        values = masked(straight_through(z, self.decode(codes)), mask)
        statistics = joint_counts(codes, self.space.levels, mask)
        return Quantized(values, masked(codes, mask), {}, statistics)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N D"]:
        """Codes, int32; 0 where the mask is False."""
        return masked(self._nearest(z.astype(jnp.float32)), mask)

    def decode(self, codes: Int[jax.Array, "B N D"]) -> Float[jax.Array, "B N D"]:
        """Means of the bins on the scale of the latents, float32."""
        return jnp.asarray(self.state["values"])[codes] * self.state["scale"] + self.state["offset"]

    @nn.nowrap
    def initialise(
        self, state: Any, z: Float[jax.Array, "B N D"], key: jax.Array, mask: jax.Array | None = None
    ) -> Any:
        """State whose bins are equally likely for normal channels with the moments of these latents.

        Args:
          state: the collection "quantizer".
          z: latents of a first (large) batch.
          key: not used.
          mask: bool [B, N] of real tokens.
        """
        del key
        z = masked(z.astype(jnp.float32), mask)
        weights = jnp.ones(z.shape[:2]) if mask is None else mask.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(weights), 1.0)
        mean = jnp.einsum("bn,bnd->d", weights, z, precision="highest") / total
        variance = jnp.einsum("bn,bnd->d", weights, jnp.square(z - mean), precision="highest") / total
        # A channel that is constant keeps a scale that can be divided by.
        return {**state, "offset": mean, "scale": jnp.sqrt(jnp.maximum(variance, 1e-12))}

    def _nearest(self, z):
        u = jnp.clip((z - self.state["offset"]) / self.state["scale"], -self.reach, self.reach)
        return nearest_value(u, jnp.broadcast_to(self.state["values"], (self.width, self.levels)))
