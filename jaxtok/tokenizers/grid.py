"""Two-dimensional tokenizer: a convolutional encoder makes a grid of features, a decoder makes pixels of it.

VQGAN (arXiv 2012.09841), the tokenizers of MaskGIT (arXiv 2202.04200), LlamaGen (arXiv 2406.06525) and VAR
(arXiv 2404.02905), and Open-MAGVIT2 (arXiv 2409.04410) are one network with different switches. Outside, the
grid is the sequence of its cells, row by row, as everything that reads tokens wants it.

The encoder's levels go from fine to coarse, each of some residual blocks (and attention) and, but for the
last, a halving of the grid; then come the middle blocks. The decoder is the mirror image. A level is named by
its place among the multipliers in both halves.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.convolution import (
    AdaptiveGroupNorm,
    Down,
    Downsample,
    GridAttention,
    GroupNorm,
    ResidualBlock,
    Shortcut,
    Up,
    Upsample,
    convolution,
)


@dataclasses.dataclass(frozen=True)
class GridShape:
    """Size and switches of one half of the tokenizer.

    Attributes:
      channels: width of the finest level, before its multiplier.
      multipliers: width of every level, from fine to coarse, in units of `channels`; the grid has
        `2**(len(multipliers) - 1)` times fewer rows and columns than the image.
      blocks: residual blocks per level.
      middle: residual blocks at the coarsest resolution, beyond its level.
      attention: levels whose residual blocks are each followed by attention over the grid.
      middle_attention: whether attention follows the first of the middle blocks.
      features: D, channels of a cell outside: what the encoder gives and the decoder takes.
      window: of the convolution that makes them, 1 or 3 (encoder).
      use_bias: whether the residual blocks, and the encoder's first convolution, have biases.
      shortcut: see `ResidualBlock`.
      down: see `Downsample` (encoder).
      up: see `Upsample` (decoder).
      adaptive: whether the latents normalise the input of every level, see `AdaptiveGroupNorm` (decoder).
      groups: of the group normalisations; divides every width.
      unit_range: whether the network's pixels are in [0, 1] inside; outside they are in [-1, 1] all the same.
      remat: whether the backward pass computes every level again instead of keeping what is inside it.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    middle: int = 2
    attention: tuple[int, ...] = ()
    middle_attention: bool = False
    features: int = 256
    window: int = 3
    use_bias: bool = True
    shortcut: Shortcut = "input"
    down: Down = "conv_end"
    up: Up = "nearest"
    adaptive: bool = False
    groups: int = 32
    unit_range: bool = False
    remat: bool = False

    def __post_init__(self):
        if not self.multipliers or any(not 0 <= level < len(self.multipliers) for level in self.attention):
            raise ValueError(
                f"attention={self.attention} must name levels of multipliers={self.multipliers}, the finest "
                "is 0"
            )
        if self.window not in (1, 3):
            raise ValueError(f"window={self.window}; choose 1 or 3")
        if uneven := [width for width in self.widths if width % self.groups]:
            raise ValueError(
                f"levels of {uneven} channels do not divide into groups={self.groups}; change channels, "
                "multipliers or groups"
            )
        if self.middle_attention and not self.middle:
            raise ValueError("middle_attention=True needs a middle block that it follows; set middle")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, from fine to coarse."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def factor(self) -> int:
        """Pixels per cell along a side."""
        return 2 ** (len(self.multipliers) - 1)

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the grid of an image of `size` = (height, width).

        Raises:
          ValueError: a side that the factor does not divide.
        """
        if size[0] % self.factor or size[1] % self.factor:
            raise ValueError(
                f"images of {size[0]}x{size[1]}: both sides must divide by {self.factor}; resize or crop them"
            )
        return size[0] // self.factor, size[1] // self.factor

    def residual(self, features: int, dtype: Any, name: str) -> ResidualBlock:
        """A residual block with these switches."""
        return ResidualBlock(features, self.shortcut, self.use_bias, self.groups, dtype, name=name)

    def norm(self, dtype: Any) -> GroupNorm:
        """The normalisation before the last convolution."""
        return GroupNorm(self.groups, dtype=dtype, name="norm")


class GridLevel(nn.Module):
    """Residual blocks of one width at one resolution, then perhaps a change of it.

    Attributes:
      shape: switches of the half that it belongs to.
      index: which level.
      decoding: whether it doubles the grid in the end, all but the finest; else it halves it, all but the
        coarsest.
      dtype: computation dtype.
    """

    shape: GridShape
    index: int
    decoding: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"], style: Float[jax.Array, "B h w D"]) -> jax.Array:
        shape = self.shape
        if self.decoding and shape.adaptive:
            x = AdaptiveGroupNorm(shape.groups, dtype=self.dtype, name="adaptive")(x, style)
        for i in range(shape.blocks):
            x = shape.residual(shape.widths[self.index], self.dtype, f"block_{i}")(x)
            if self.index in shape.attention:
                x = GridAttention(shape.groups, self.dtype, name=f"attention_{i}")(x)
        if self.decoding and self.index:
            return Upsample(shape.up, self.dtype, name="up")(x)
        if not self.decoding and self.index < len(shape.multipliers) - 1:
            return Downsample(shape.down, self.dtype, name="down")(x)
        return x


def _middle(shape: GridShape, x: jax.Array, dtype: Any) -> jax.Array:
    for i in range(shape.middle):
        x = shape.residual(shape.widths[-1], dtype, f"middle_{i}")(x)
        if i == 0 and shape.middle_attention:
            x = GridAttention(shape.groups, dtype, name="middle_attention")(x)
    return x


def _level(shape: GridShape, index: int, decoding: bool, dtype: Any) -> GridLevel:
    kind = nn.remat(GridLevel) if shape.remat else GridLevel
    return kind(shape, index, decoding, dtype, name=f"level_{index}")


class GridEncoder(nn.Module):
    """Image to one feature per cell.

    Attributes:
      shape: size and switches.
      tokens: N, cells of an image of the usual size; others are encoded too.
      dtype: computation dtype.
    """

    shape: GridShape
    tokens: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B N D"]:
        """Encodes float images in [-1, 1] to their cells, row by row.

        Raises:
          ValueError: sides that do not divide by the factor.
        """
        shape = self.shape
        shape.cells((images.shape[1], images.shape[2]))
        x = (images + 1) / 2 if shape.unit_range else images
        x = convolution(shape.channels, 3, shape.use_bias, self.dtype, "conv_in")(x)
        for index in range(len(shape.multipliers)):
            x = _level(shape, index, False, self.dtype)(x, x)
        x = nn.swish(shape.norm(self.dtype)(_middle(shape, x, self.dtype)))
        x = convolution(shape.features, shape.window, dtype=self.dtype, name="conv_out")(x)
        return x.reshape(x.shape[0], -1, shape.features)


class GridDecoder(nn.Module):
    """One latent per cell to an image.

    Attributes:
      shape: size and switches.
      channels: image channels.
      dtype: computation dtype.
    """

    shape: GridShape
    channels: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[jax.Array, "B N D"], size: tuple[int, int], train: bool = False
    ) -> tuple[Float[jax.Array, "B H W C"], dict[str, jax.Array]]:
        """Decodes cells, row by row, to `size` = (height, width) pixels, float32, not clipped; no features.

        Raises:
          ValueError: a size that does not divide by the factor or has another number of cells than latents.
        """
        del train
        shape = self.shape
        rows, columns = shape.cells(size)
        if rows * columns != latents.shape[1]:
            raise ValueError(
                f"{latents.shape[1]} latents do not make {size[0]}x{size[1]} pixels, which have "
                f"{rows}x{columns} cells; say the size that was encoded"
            )
        style = latents.reshape(latents.shape[0], rows, columns, -1).astype(self.dtype)
        x = convolution(shape.widths[-1], dtype=self.dtype, name="conv_in")(style)
        x = _middle(shape, x, self.dtype)
        for index in reversed(range(len(shape.multipliers))):
            x = _level(shape, index, True, self.dtype)(x, style)
        x = nn.swish(shape.norm(self.dtype)(x))
        x = convolution(self.channels, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)
        return (2 * x - 1 if shape.unit_range else x), {}
