"""The network of a masked prior over continuous latents, conditioned on a text (MaskGen-KL, arXiv 2501.07730;
MAR, arXiv 2406.11838): a transformer predicts what every token should be, and a small network denoises it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxtok.codes import Condition
from jaxtok.nn.canvas import Canvas
from jaxtok.nn.joint_transformer import JointTransformer
from jaxtok.nn.linear import Dense
from jaxtok.nn.masked_joint_transformer import check_capacity
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.token_denoiser import TokenDenoiser


class MaskedValueTransformer(nn.Module):
    """Transformer of two streams from known tokens and a text to what all tokens should be.

    Attributes:
      channels: C, of a token.
      tokens: N.
      backbone: what the tokens go through.
      denoiser_layers, denoiser_width: size of the network that denoises a token.
      dtype: computation dtype.
    """

    channels: int
    tokens: int
    backbone: JointTransformer
    denoiser_layers: int
    denoiser_width: int
    dtype: Any = jnp.float32

    @property
    def space(self) -> None:
        """None: latents are continuous."""
        return None

    def setup(self):
        width, normal = self.backbone.width, nn.initializers.normal(0.02)
        self.embed = Dense(width, dtype=self.dtype)
        self.norm = LayerNorm(1e-6, dtype=self.dtype)
        self.mask = self.param("mask", normal, (width,), jnp.float32)
        self.positions = self.param("positions", normal, (self.tokens, width), jnp.float32)
        self.places = self.param("places", normal, (self.tokens, width), jnp.float32)
        shape = (self.channels, self.denoiser_width, self.denoiser_layers)
        self.denoiser = TokenDenoiser(*shape, dtype=self.dtype)

    def __call__(
        self,
        values: Float[jax.Array | np.ndarray, "B N C"],
        condition: Condition | None = None,
        masked: Bool[jax.Array | np.ndarray, "B N"] | None = None,
        cache: Canvas | None = None,
    ) -> Float[jax.Array, "B N D"]:
        """What every token should be, for `denoise`.

        Args:
          values: all N tokens, scaled; those that are masked are not read.
          condition: what to generate; not needed beside a cache.
          masked: True where a token is masked; None for nowhere.
          cache: result of `start`, whose condition is used.

        Raises:
          ValueError: neither condition nor cache.
        """
        conditioning = (
            self.backbone.conditioning(condition)
            if cache is None
            else (cache.prefix, cache.prefix_mask, cache.vector)
        )
        x = self.norm(self.embed(jnp.asarray(values)))
        if masked is not None:
            x = jnp.where(jnp.asarray(masked)[..., None], self.mask.astype(x.dtype), x)
        z = self.backbone(x + self.positions.astype(x.dtype), conditioning) + self.places.astype(x.dtype)
        if self.is_initializing():
            self.denoiser(jnp.asarray(values), jnp.zeros(values.shape[:2]), z)
        return z

    def denoise(
        self, x: Float[jax.Array, "B M C"], t: Num[jax.Array, "B M"], z: Float[jax.Array, "B M D"]
    ) -> tuple[Float[jax.Array, "B M C"], Float[jax.Array, "B M C"]]:
        """Noise and variance of noised tokens, see `TokenDenoiser`."""
        return self.denoiser(x, t, z)

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> Canvas:
        """A canvas on which nothing is known but the condition, see `MaskedJointTransformer.start`.

        Raises:
          ValueError: a capacity above N; no condition.
        """
        del batch
        check_capacity(capacity, self.tokens)
        rows = 0 if condition is None else condition.batch
        return self.backbone.canvas(condition, jnp.zeros((rows, self.tokens, self.channels), jnp.float32))

    def step(
        self,
        cache: Canvas,
        inputs: Float[jax.Array, "B S C"],
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S"] | None = None,
    ) -> tuple[Float[jax.Array, "B S D"], Canvas]:
        """Gives the network some tokens and asks what others should be, see `MaskedTransformer.step`."""
        cache = cache.write(inputs, positions, mask)
        z = self(cache.codes, None, ~cache.known, cache)
        return jnp.take_along_axis(z, positions[..., None], axis=1), cache
