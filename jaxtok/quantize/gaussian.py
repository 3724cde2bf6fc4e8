"""A continuous bottleneck: every token is a Gaussian, and its latent a draw from it (arXiv 1312.6114).

    z = [mu, log s^2],   latent = mu + s * noise,   KL = 1/2 sum_d (mu^2 + s^2 - 1 - log s^2) per token

It keeps the quantizers' contract, so that a tokenizer is discrete or continuous by its bottleneck alone; only
there are no codes, and nothing but a prior of continuous values can model its latents.

    >>> import jax
    >>> from jaxtok.quantize.gaussian import GaussianBottleneck
    >>> bottleneck = GaussianBottleneck(width=4)
    >>> z = jax.random.normal(jax.random.key(0), (2, 8, 8))  # means and log-variances
    >>> out = bottleneck.apply({}, z, train=True, key=jax.random.key(1))
    >>> out.values.shape, out.codes, sorted(out.losses)
    ((2, 8, 4), None, ['kl'])
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok import keys as random
from jaxtok.codes import Quantized
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.fixed_state import FixedStateQuantizer

LOG_VARIANCES = (-30.0, 20.0)


def kl_to_standard_normal(
    mean: Float[jax.Array, "*batch D"], log_variance: Float[jax.Array, "*batch D"]
) -> Float[jax.Array, "*batch"]:
    """Divergence of diagonal Gaussians from the standard one, in nats per token."""
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(terms, axis=-1)


class GaussianBottleneck(FixedStateQuantizer):
    """Tokens as Gaussians; latents are float32 whatever the features are.

    Attributes:
      width: D, of a latent; features are 2 D wide, means first.
      kl_weight: of the divergence, summed over the tokens of an image and averaged over images.
    """

    width: int
    kl_weight: float = 1e-6

    @property
    def space(self) -> None:
        """None: latents are continuous."""
        return None

    def moments(
        self, z: Float[jax.Array, "B N E"]
    ) -> tuple[Float[jax.Array, "B N D"], Float[jax.Array, "B N D"]]:
        """Means and log-variances, these within `LOG_VARIANCES`.

        Raises:
          ValueError: features that are not twice as wide as latents.
        """
        if z.shape[-1] != 2 * self.width:
            raise ValueError(
                f"features are {z.shape[-1]} wide, but means and log-variances of width={self.width} latents "
                f"need {2 * self.width}"
            )
        mean, log_variance = jnp.split(z.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCES)

    def __call__(
        self,
        z: Float[jax.Array, "B N E"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
    ) -> Quantized:
        """Draws latents.

        Args:
          z: features, means and log-variances.
          train: draw the noise; else latents are the means.
          key: scalar key or one key per example; default the "quantizer" stream of `rngs`.
          temperature: not used; how much noise there is, the features say.

        Returns:
          `Quantized` without codes and statistics, and the loss "kl", weighted.
        """
        del temperature
        mean, log_variance = self.moments(z)
        values = mean
        if train:
            keys = random.example_keys(self.make_rng("quantizer") if key is None else key, z.shape[0])
            values = mean + jnp.exp(0.5 * log_variance) * random.normal(keys, mean.shape[1:])
        kl = jnp.mean(jnp.sum(kl_to_standard_normal(mean, log_variance), axis=-1))
        return Quantized(values, None, {"kl": self.kl_weight * kl})

    def latents(self, z: Float[jax.Array, "B N E"]) -> Float[jax.Array, "B N D"]:
        """Means, the latents of evaluation."""
        return self.moments(z)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianConfig(QuantizerConfig):
    """Gaussian latents, no codes, see `GaussianBottleneck`.

    Attributes:
      kl_weight: of the divergence of the latents, summed over an image.
    """

    kind = "gaussian"

    kl_weight: float = 1e-6

    def build(self, width: int) -> GaussianBottleneck:
        """See `QuantizerConfig.build`."""
        return GaussianBottleneck(width, self.kl_weight)

    def features(self, width: int) -> int:
        """Means and log-variances."""
        return 2 * width
