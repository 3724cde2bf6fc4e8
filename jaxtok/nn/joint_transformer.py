"""A transformer over tokens that a text reads and is read by (MM-DiT, arXiv 2403.03206), as MaskGen has it
(arXiv 2501.07730).

The text's tokens are the second stream; a vector of the whole text, and of a score of the image that the
training data have, modulates all blocks.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.codes import Condition
from jaxtok.nn.canvas import Canvas
from jaxtok.nn.conditioning import check_condition
from jaxtok.nn.joint_block import JointBlock
from jaxtok.nn.linear import Dense, Initializer
from jaxtok.nn.modulation import AdaptiveLayerNorm, sinusoids
from jaxtok.nn.transformer import Remat, Stack

Conditioning = tuple[Float[jax.Array, "B T D"], Bool[jax.Array, "B T"], Float[jax.Array, "B D"]]


class JointTransformer(nn.Module):
    """Embedded tokens to features, given a condition.

    Attributes:
      layers: blocks, at least 1; in the last one the text is only read.
      heads, head_dim: size; the width D is their product.
      hidden: inner width of the feed-forward halves.
      conditioner: turns a `Condition` into text features, features of the whole text, and a mask.
      score_width: sinusoids of a hundred times the condition's "score", a number per image, beside the whole
        text; 0 for no score.
      score_period: of the slowest sinusoid.
      score_interleaved: see `sinusoids`.
      kernel_init: of the maps.
      final_init: of the map that modulates the last norm.
      remat, unroll: see `Stack`.
      dtype: computation dtype.
    """

    layers: int
    heads: int
    head_dim: int
    hidden: int
    conditioner: nn.Module
    score_width: int = 0
    score_period: float = 10_000.0
    score_interleaved: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    final_init: Initializer = nn.initializers.zeros
    remat: Remat = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_dim

    def setup(self):
        if self.layers < 1:
            raise ValueError(f"layers={self.layers} must be at least 1, the last block")
        shape, kernel = (self.heads, self.head_dim, self.hidden), self.kernel_init
        self.context = Dense(self.width, dtype=self.dtype, kernel_init=kernel)
        self.vector = Dense(self.width, dtype=self.dtype, kernel_init=kernel)
        block = JointBlock(*shape, kernel_init=kernel, dtype=self.dtype, parent=None)
        repeated = self.layers - 1
        self.stack = Stack(block, repeated, self.remat, min(self.unroll, repeated)) if repeated else None
        self.last = JointBlock(*shape, last=True, kernel_init=kernel, dtype=self.dtype)
        self.norm = AdaptiveLayerNorm(self.dtype, kernel_init=self.final_init)

    def conditioning(self, condition: Condition | None) -> Conditioning:
        """What a condition says: text [B, T, D], which of it is there, and the vector [B, D].

        Raises:
          ValueError: no condition.
        """
        check_condition(condition, True)
        features, pooled, mask = self.conditioner(condition)
        if self.score_width:
            score = 100 * jnp.asarray(condition.features["score"], jnp.float32)  # type: ignore[union-attr]
            waves = sinusoids(score, self.score_width, self.score_period, self.score_interleaved)
            pooled = jnp.concatenate([pooled, waves.astype(pooled.dtype)], axis=-1)
        return self.context(features), mask, self.vector(pooled)

    def canvas(self, condition: Condition | None, empty: jax.Array) -> Canvas:
        """A canvas on which nothing is known but the condition; `empty` tokens lie on it."""
        text, mask, vector = self.conditioning(condition)
        return Canvas(text, mask, empty, jnp.zeros(empty.shape[:2], bool), vector)

    def __call__(self, x: Float[jax.Array, "B N D"], conditioning: Conditioning) -> Float[jax.Array, "B N D"]:
        """Features of embedded tokens, given what `conditioning` made of a condition."""
        text, mask, vector = conditioning
        joined = jnp.concatenate([text.astype(self.dtype), x.astype(self.dtype)], axis=1)
        shared = {"segments": (text.shape[1], x.shape[1]), "modulation": vector, "mask": mask}
        if self.stack is not None:
            joined, _ = self.stack(joined, None, shared)
        tokens, _ = self.last(joined, {}, shared)
        return self.norm(tokens, vector)
