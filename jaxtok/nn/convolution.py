"""Convolutional blocks of image autoencoders: residual blocks, attention over a grid, halving and doubling.

They are the parts of VQGAN (arXiv 2012.09841) and of what was made from it, which differ in few places: where
the shortcut of a residual block starts, whether convolutions have biases, how a grid is halved and doubled.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.attention import Attention
from jaxtok.nn.linear import Dense
from jaxtok.nn.patches import average_pool, nearest_upsample, unpatchify

Grid = Float[jax.Array, "B H W C"]
Shortcut = Literal["input", "branch"]
Down = Literal["conv_end", "conv_centre", "conv_wide", "pool"]
Up = Literal["nearest", "shuffle"]

# Window, and rows and columns of zeros before and after.
_DOWN = {"conv_end": (3, (0, 1)), "conv_centre": (3, (1, 1)), "conv_wide": (4, (1, 1))}


def convolution(
    features: int, window: int = 3, use_bias: bool = True, dtype: Any = jnp.float32, name: str | None = None
) -> nn.Conv:
    """A convolution with an odd window that keeps the size of the grid: zeros all around."""
    return nn.Conv(features, (window, window), padding=window // 2, use_bias=use_bias, dtype=dtype, name=name)


class GroupNorm(nn.Module):
    """Group normalisation (arXiv 1803.08494) over a grid and the channels of a group, computed in float32.

    Attributes:
      groups: number of groups of consecutive channels.
      affine: whether scale and bias are learned.
      epsilon: added to the variance.
      dtype: output dtype.
    """

    groups: int = 32
    affine: bool = True
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        """Normalises every group of channels of every image.

        Raises:
          ValueError: channels that do not divide into the groups.
        """
        batch, height, width, channels = x.shape
        if channels % self.groups:
            raise ValueError(
                f"{channels} channels do not divide into groups={self.groups}; choose a divisor of every "
                "width of the network"
            )
        x = x.astype(jnp.float32).reshape(batch, height, width, self.groups, -1)
        x = x - jnp.mean(x, axis=(1, 2, 4), keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=(1, 2, 4), keepdims=True) + self.epsilon)
        x = x.reshape(batch, height, width, channels)
        if self.affine:
            x = x * self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
            x = x + self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return x.astype(self.dtype)


class AdaptiveGroupNorm(nn.Module):
    """Group normalisation whose scale and bias come from a style map (Open-MAGVIT2, arXiv 2409.04410).

        y = GN(x) gamma(sqrt(var s + 1e-6)) + beta(mean s)

    with affine maps gamma and beta of the deviation (variance over the grid, unbiased) and mean of every
    channel of the style.

    Attributes:
      groups: of the normalisation.
      dtype: computation dtype; the statistics are float32.
    """

    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B H W C"], style: Float[jax.Array, "B h w E"]
    ) -> Float[jax.Array, "B H W C"]:
        """Normalises `x`, and lets the style say how large and where every channel is.

        Raises:
          ValueError: a style of one cell, which has no variance; or see `GroupNorm`.
        """
        if style.shape[1] * style.shape[2] < 2:
            raise ValueError("a style map of one cell has no variance; decode at least two cells")
        style = style.astype(jnp.float32)
        deviation = jnp.sqrt(jnp.var(style, axis=(1, 2), ddof=1) + 1e-6)
        gamma = Dense(x.shape[-1], dtype=self.dtype, name="gamma")(deviation)
        beta = Dense(x.shape[-1], dtype=self.dtype, name="beta")(jnp.mean(style, axis=(1, 2)))
        x = GroupNorm(self.groups, affine=False, dtype=self.dtype, name="norm")(x)
        return x * gamma[:, None, None] + beta[:, None, None]


class ResidualBlock(nn.Module):
    """`x + conv(swish(GN(conv(swish(GN(x))))))`, with a 1x1 convolution on the shortcut if widths differ.

    Attributes:
      features: channels that come out.
      shortcut: what that 1x1 convolution reads: the "input", or the output of the "branch", as in the
        released MaskGIT-VQGAN (arXiv 2202.04200), where the input then reaches the output through the branch
        only.
      use_bias: whether the convolutions have biases.
      groups: of the normalisations.
      dtype: computation dtype.
    """

    features: int
    shortcut: Shortcut = "input"
    use_bias: bool = True
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H W D"]:
        """Features of the same grid.

        Raises:
          ValueError: an unknown shortcut, or see `GroupNorm`.
        """
        if self.shortcut not in ("input", "branch"):
            raise ValueError(f"shortcut={self.shortcut!r}; choose 'input' or 'branch'")
        y = x
        for i in (1, 2):
            y = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name=f"norm_{i}")(y))
            y = convolution(self.features, 3, self.use_bias, self.dtype, f"conv_{i}")(y)
        if x.shape[-1] != self.features:
            project = convolution(self.features, 1, self.use_bias, self.dtype, "shortcut")
            x = project(x if self.shortcut == "input" else y)
        return x + y


class GridAttention(nn.Module):
    """`x + attention(GN(x))` with one head over all cells of a grid.

    Attributes:
      groups: of the normalisation.
      dtype: computation dtype.
    """

    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H W C"]:
        batch, channels = x.shape[0], x.shape[-1]
        cells = GroupNorm(self.groups, dtype=self.dtype, name="norm")(x).reshape(batch, -1, channels)
        attention = Attention(1, channels, qk_norm=False, use_bias=True, dtype=self.dtype, name="attention")
        return x + attention(cells)[0].reshape(x.shape)


class Downsample(nn.Module):
    """A grid of half the height and width, same channels.

    Attributes:
      kind: "pool" for the mean of 2x2 cells; or a convolution of stride 2: "conv_end" of 3x3 with zeros
        behind the last row and column (VQGAN), "conv_centre" of 3x3 with zeros all around (Open-MAGVIT2),
        "conv_wide" of 4x4 with zeros all around (the option of MaskGIT).
      dtype: computation dtype.
    """

    kind: Down = "conv_end"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 C"]:
        """Halves both sides.

        Raises:
          ValueError: a side that is odd, or an unknown kind.
        """
        if x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(f"a grid of {x.shape[1]}x{x.shape[2]} cells cannot be halved; resize the images")
        if self.kind == "pool":
            return average_pool(x)
        if self.kind not in _DOWN:
            raise ValueError(f"down={self.kind!r}; choose 'pool' or one of {', '.join(map(repr, _DOWN))}")
        window, padding = _DOWN[self.kind]
        return nn.Conv(
            x.shape[-1],
            (window, window),
            strides=2,
            padding=(padding, padding),
            dtype=self.dtype,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """A grid of twice the height and width, same channels.

    Attributes:
      kind: "nearest" repeats cells and convolves; "shuffle" convolves to four times the channels, ordered
        (row, column, channel), and lays them out in space.
      dtype: computation dtype.
    """

    kind: Up = "nearest"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H2 W2 C"]:
        """Doubles both sides.

        Raises:
          ValueError: an unknown kind.
        """
        batch, height, width, channels = x.shape
        if self.kind == "nearest":
            return convolution(channels, dtype=self.dtype, name="conv")(nearest_upsample(x))
        if self.kind == "shuffle":
            x = convolution(4 * channels, dtype=self.dtype, name="conv")(x)
            return unpatchify(x.reshape(batch, height * width, -1), height, width, 2)
        raise ValueError(f"up={self.kind!r}; choose 'nearest' or 'shuffle'")
