"""One-dimensional tokenizer with register tokens behind the patches of a plain transformer (FlexTok, arXiv
2502.13967).

    encoder   [patches, registers]     keeps the registers
    decoder   see `flow_decoder`

Norms have no parameters and maps no biases, queries and keys are normalised, and the scale of attention is
muP's. With the mask "causal_last" a register sees the patches and the registers before it, so that the first
n registers say the same however many follow.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxtok.nn.grid_positions import GridPositions, PositionKind, Scaling
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import make_norm
from jaxtok.nn.patches import patchify
from jaxtok.nn.transformer import Block, Remat, Stack

RegisterMask = Literal["full", "causal", "causal_last"]
NORM_EPSILON = 1e-5  # of all norms


@dataclasses.dataclass(frozen=True)
class RegisterShape:
    """Size of one half of the tokenizer.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      head_dim: width of a head; the width of a token is heads times head_dim.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: blocks per iteration of the layer scan; more compile slower and run faster on CPU.
    """

    layers: int
    heads: int
    head_dim: int = 64
    remat: Remat = "none"
    unroll: int = 1

    @classmethod
    def deep(cls, layers: int, remat: Remat = "none") -> "RegisterShape":
        """A published size: as many heads of 64 channels as layers."""
        return cls(layers, layers, remat=remat)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def hidden(self) -> int:
        """Inner width of the gated feed-forward halves: two thirds of four times the width."""
        return int(2 * (4 * self.width) / 3)

    def stack(self, dtype: Any, **modulation: Any) -> Stack:
        """The blocks."""
        block = Block(
            self.heads,
            self.head_dim,
            self.hidden,
            norm="plain",
            norm_epsilon=NORM_EPSILON,
            qk_norm="plain",
            attention_scale=8 / self.head_dim,  # muP (arXiv 2203.03466); at 64 channels the usual one
            dtype=dtype,
            parent=None,
            **modulation,
        )
        return Stack(block, self.layers, self.remat, min(self.unroll, self.layers), name="stack")


def register_mask(patches: int, registers: int, mode: str) -> Bool[np.ndarray, "N N"] | None:
    """Who sees whom in [patches, registers]; row i is what token i sees, None where everybody sees all.

    Args:
      patches, registers: how many.
      mode: "full"; "causal", every token sees itself and those before it; "causal_last", patches see all
        patches, and registers all patches, themselves and the registers before them.

    Raises:
      ValueError: an unknown mode.
    """
    if mode == "full":
        return None
    if mode not in ("causal", "causal_last"):
        raise ValueError(f"mask mode {mode!r}; choose 'full', 'causal' or 'causal_last'")
    mask = np.tri(patches + registers, dtype=bool)
    if mode == "causal_last":
        mask[:patches, :patches] = True
    return mask


class RegisterEncoder(nn.Module):
    """Image, or latents of a first stage, to one feature per register.

    Attributes:
      shape: size of the transformer.
      tokens: N, registers.
      grid: (rows, columns) of patches of the largest image.
      patch: patch side.
      features: width of what comes out.
      mask: see `register_mask`.
      positions: of the patches, see `GridPositions`.
      scaling: of those.
      dtype: computation dtype.
    """

    shape: RegisterShape
    tokens: int
    grid: tuple[int, int]
    patch: int
    features: int
    mask: RegisterMask = "causal_last"
    positions: PositionKind = "sincos"
    scaling: Scaling = "absolute"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B N D"]:
        """Features of the registers, float32.

        Raises:
          ValueError: sides that do not divide into patches, or more patches than there are positions.
        """
        batch, height, width, _ = images.shape
        size = (height // self.patch, width // self.patch)
        x = Dense(self.shape.width, dtype=self.dtype, name="patch")(patchify(images, self.patch))
        place = GridPositions(self.grid, self.shape.width, self.positions, self.scaling, name="place")(size)
        registers = self.param(
            "registers", nn.initializers.truncated_normal(0.02), (self.tokens, self.shape.width), jnp.float32
        )
        registers = jnp.broadcast_to(registers.astype(self.dtype), (batch, *registers.shape))
        x = jnp.concatenate([x + place.astype(self.dtype), registers], axis=1)
        mask = register_mask(size[0] * size[1], self.tokens, self.mask)
        shared = {} if mask is None else {"mask": jnp.asarray(mask)[None, None]}
        x, _ = self.shape.stack(self.dtype)(x, shared=shared)
        x = make_norm("plain", epsilon=NORM_EPSILON, name="norm")(x[:, -self.tokens :])
        return Dense(self.features, name="out")(x)
