"""A small network that denoises one continuous token, conditioned on the output of a transformer (MAR,
arXiv 2406.11838).

    y = TimeEmbedding(t) + Linear(z)          h = Linear(x)
    h += gate(y) * MLP(LN(h) (1 + scale(y)) + shift(y))                        in every block
    [noise, variance] = Linear(LN(h) (1 + scale(y)) + shift(y))

Tokens do not see each other here: what they have to do with each other is in z.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from jaxtok.nn.feedforward import FeedForward
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import Modulation, TimeEmbedding
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.transformer import Stack

_EPSILON = 1e-6


class DenoiserBlock(nn.Module):
    """One residual block, for `Stack`; it starts as the identity.

    Attributes:
      dtype: computation dtype.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, layer: Any, shared: dict[str, Any], collect: str = "nothing"):
        """Runs the block on x [B, M, D], modulated by `shared["modulation"]` [B, M, D]; see `Block`."""
        del layer, collect
        width = x.shape[-1]
        modulation = Modulation(3, width, self.dtype, nn.initializers.zeros, name="modulation")
        shift, scale, gate = modulation(shared["modulation"])
        h = LayerNorm(_EPSILON, dtype=self.dtype, name="norm")(x) * (1 + scale) + shift
        return x + gate * FeedForward(width, "silu", True, self.dtype, name="feed_forward")(h), None


class TokenDenoiser(nn.Module):
    """Noise and variance of noised tokens.

    Attributes:
      channels: C, of a token.
      width: D, of the blocks.
      layers: blocks.
      frequencies: pairs of sinusoids of the time.
      dtype: computation dtype; what comes out is float32.
    """

    channels: int
    width: int
    layers: int
    frequencies: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B M C"], t: Num[jax.Array, "B M"], z: Float[jax.Array, "B M E"]
    ) -> tuple[Float[jax.Array, "B M C"], Float[jax.Array, "B M C"]]:
        """Predicts.

        Args:
          x: noised tokens.
          t: how many steps of noise they have had, less one: 0, 1, ...
          z: what the tokens should be.

        Returns:
          The noise, and where the log-variance of the step back lies between its bounds: -1 at the lower one,
          1 at the upper one; both float32.
        """
        normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        time = TimeEmbedding(
            self.width, self.frequencies, dtype=self.dtype, scale=1.0, kernel_init=normal, name="time"
        )(t.reshape(-1).astype(jnp.float32))
        conditioning = Dense(self.width, dtype=self.dtype, name="conditioning")(z)
        conditioning = conditioning + time.reshape(*t.shape, self.width)
        h = Dense(self.width, dtype=self.dtype, name="in")(x)
        stack = Stack(DenoiserBlock(self.dtype, parent=None), self.layers, name="stack")
        h, _ = stack(h, None, {"modulation": conditioning})
        shift, scale = Modulation(2, self.width, self.dtype, zeros, name="modulation")(conditioning)
        h = LayerNorm(_EPSILON, affine=False, dtype=self.dtype)(h) * (1 + scale) + shift
        out = Dense(2 * self.channels, kernel_init=zeros, name="out")(h.astype(jnp.float32))
        noise, variance = jnp.split(out, 2, axis=-1)
        return noise, variance
