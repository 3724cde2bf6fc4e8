"""A stack of transformer blocks with long skips, as in U-ViT (arXiv 2209.12152)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.linear import Dense
from jaxtok.nn.transformer import Block, Collect, Remat, Stack


class SkipBlock(nn.Module):
    """`block(Linear([x, skip]))`, where the skip is the output of an earlier block.

    Attributes:
      block: what comes after the linear map.
      dtype: computation dtype.
    """

    block: Block
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: dict[str, Any], shared: dict[str, Any], collect: Collect = "nothing"
    ):
        """Runs the block, see `Block`; `layer["skip"]` [B, N, D] beside its own inputs."""
        joined = jnp.concatenate([x, layer["skip"].astype(x.dtype)], axis=-1)
        x = Dense(x.shape[-1], dtype=self.dtype, name="skip")(joined)
        return self.block(
            x, {name: value for name, value in layer.items() if name != "skip"}, shared, collect
        )


class UNetStack(nn.Module):
    """`layers / 2` blocks in, one in the middle, `layers / 2` out; the i-th last block reads the i-th.

    Attributes:
      block: the block that is repeated, each with its own parameters.
      layers: blocks without the middle one, an even number; with 0 the middle one is all there is.
      remat, unroll: see `Stack`.
    """

    block: Block
    layers: int
    remat: Remat = "none"
    unroll: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, shared: dict[str, Any] | None = None) -> jax.Array:
        """Runs the stack.

        Args:
          x: [B, N, D].
          shared: inputs that all layers share, see `Block`.

        Returns:
          x [B, N, D].

        Raises:
          ValueError: an odd number of layers.
        """
        if self.layers < 0 or self.layers % 2:
            raise ValueError(
                f"layers={self.layers} must be even: every block on the way out has one on the way in"
            )
        half, shared, outputs = self.layers // 2, shared or {}, None
        unroll = max(1, min(self.unroll, half))
        if half:
            enter = Stack(self.block.clone(), half, self.remat, unroll, name="in")
            x, outputs = enter(x, None, shared, "hidden")
        x, _ = self.block.clone(name="middle", parent=self)(x, {}, shared)
        if outputs is None:
            return x
        out = SkipBlock(self.block.clone(), self.block.dtype, parent=None)
        x, _ = Stack(out, half, self.remat, unroll, name="out")(x, {"skip": outputs[::-1]}, shared)
        return x
