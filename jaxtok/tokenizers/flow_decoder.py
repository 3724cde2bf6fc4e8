"""A generative decoder: a transformer that turns noise into an image step by step, conditioned on tokens
(FlexTok, arXiv 2502.13967; rectified flow, arXiv 2209.03003; adaptive norms, arXiv 2212.09748).

    network   [noised patches, tokens] -> velocity of the patches

Every block is modulated by the time, patches and tokens by vectors of their own. Tokens that are dropped
become one learned vector, and a sequence that says nothing (for guidance) another one.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.nn.grid_positions import GridPositions, PositionKind, Scaling
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import AdaptiveLayerNorm, TimeEmbedding
from jaxtok.nn.normalization import make_norm
from jaxtok.nn.patches import patchify, unpatchify
from jaxtok.tokenizers.registers import NORM_EPSILON, RegisterShape


class FlowDecoder(nn.Module):
    """Velocity of a noised image, given tokens.

    Attributes:
      shape: size of the transformer.
      tokens: N.
      grid: (rows, columns) of patches of the largest image.
      patch: patch side.
      channels: of the image.
      segments: 2 where patches and tokens are modulated apart, 1 where they are alike.
      positions: of the patches, see `GridPositions`; those of the tokens are learned.
      scaling: of those.
      align_after: block after which patches are projected for REPA-style alignment (arXiv 2410.06940) in
        training; None: off.
      align_width: width of the target features.
      frequencies: pairs of sinusoids of the time, see `TimeEmbedding`.
      max_period: the slowest of them.
      dtype: computation dtype.
    """

    shape: RegisterShape
    tokens: int
    grid: tuple[int, int]
    patch: int
    channels: int
    segments: Literal[1, 2] = 2
    positions: PositionKind = "sincos"
    scaling: Scaling = "absolute"
    align_after: int | None = None
    align_width: int = 1024
    frequencies: int = 128
    max_period: float = 256.0
    dtype: Any = jnp.float32

    def setup(self):
        if self.align_after is not None and not 0 <= self.align_after < self.shape.layers:
            raise ValueError(
                f"align_after={self.align_after} must be a block index below layers={self.shape.layers}"
            )
        width, vector = self.shape.width, nn.initializers.truncated_normal(0.02)
        self.inward = Dense(width, dtype=self.dtype)
        # As large as what the values of a token become, so that tokens can be told apart from the start.
        self.token_place = GridPositions((self.tokens,), width, "learned", deviation=0.2)
        self.dropped = self.param("dropped", vector, (width,), jnp.float32)
        self.null = self.param("null", vector, (width,), jnp.float32)
        self.patches = Dense(width, dtype=self.dtype)
        self.place = GridPositions(self.grid, width, self.positions, self.scaling)
        self.time = TimeEmbedding(width, self.frequencies, self.max_period, self.dtype)
        zeros = nn.initializers.zeros
        self.stack = self.shape.stack(
            self.dtype, modulated=True, segments=self.segments, modulation_init=zeros
        )
        self.norm = AdaptiveLayerNorm(self.dtype, NORM_EPSILON, zeros)
        self.out = Dense(self.patch**2 * self.channels, kernel_init=zeros)
        if self.align_after is not None:
            self.align_norm = make_norm("plain", epsilon=NORM_EPSILON, dtype=self.dtype)
            self.align_1 = Dense(4 * width, dtype=self.dtype)
            self.align_2 = Dense(self.align_width, dtype=self.dtype)

    def conditioning(
        self,
        values: Float[jax.Array, "B N D"],
        kept: Bool[jax.Array, "B N"] | None = None,
        null: Bool[jax.Array, " B"] | None = None,
    ) -> Float[jax.Array, "B N E"]:
        """What the network is conditioned on: the values of tokens, embedded.

        Args:
          values: of all N tokens, whatever those are that are dropped.
          kept: which of them are; None for all.
          null: rows without any condition; None for none.

        Raises:
          ValueError: another number of tokens.
        """
        if values.shape[1] != self.tokens:
            raise ValueError(
                f"{values.shape[1]} tokens, but this decoder reads {self.tokens}; a mask keeps fewer"
            )
        x = self.inward(values) + self.token_place((self.tokens,)).astype(self.dtype)
        if kept is not None:
            x = jnp.where(kept[..., None], x, self.dropped.astype(self.dtype))
        return x if null is None else jnp.where(null[:, None, None], self.null.astype(self.dtype), x)

    def velocity(
        self,
        x: Float[jax.Array, "B H W C"],
        t: Float[jax.Array, " B"],
        conditioning: Float[jax.Array, "B N E"],
        train: bool = False,
    ) -> tuple[Float[jax.Array, "B H W C"], dict[str, jax.Array]]:
        """Velocity of a noised image at times t in [0, 1], where 1 is noise, and features: "alignment"
        [B, patches, align_width] in training when `align_after` is set; both float32.

        Raises:
          ValueError: sides that do not divide into patches, or more patches than there are positions.
        """
        size = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        cells = size[0] * size[1]
        patches = self.patches(patchify(x, self.patch)) + self.place(size).astype(self.dtype)
        time = self.time(t)
        shared: dict[str, Any] = {"modulation": time}
        if self.segments == 2:
            shared["segments"] = (cells, self.tokens)
        tap = self.align_after is not None and (train or self.is_initializing())
        x, hidden = self.stack(
            jnp.concatenate([patches, conditioning], axis=1),
            shared=shared,
            collect="hidden" if tap else "nothing",
        )
        x = self.out(self.norm(x[:, :cells], time).astype(jnp.float32))
        features = {"alignment": self._project(hidden[self.align_after][:, :cells])} if tap else {}
        return unpatchify(x, *size, self.patch), features

    def _project(self, x):
        x = nn.silu(self.align_1(self.align_norm(x)))
        return self.align_2(x).astype(jnp.float32)
