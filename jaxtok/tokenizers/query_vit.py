"""One-dimensional tokenizer: learned query tokens read an image in a ViT, mask tokens write it back.

The encoder appends image patches to K learned queries and keeps the queries; the decoder appends copies of
one mask token to the K embedded latents and keeps the image. Image tokens are down-sampled (encoder) and
up-sampled (decoder) between blocks, the queries pass unchanged. Rotary coordinates tell tokens apart: query j
sits at (j, 0, 0), the image token of row r and column c at (0, r, c), stretched to a common range when
`scale` is set, so that the same K tokens decode at any resolution.
"""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import RMSNorm
from jaxtok.nn.patches import patchify, unpatchify
from jaxtok.nn.resampling import DCDown, DCUp
from jaxtok.nn.rope import Rope, RopeLayout, grid_coordinates, rope_tables
from jaxtok.nn.transformer import Block, Remat, Stack


@dataclasses.dataclass(frozen=True)
class ViTShape:
    """Size of one half of the tokenizer.

    Attributes:
      layers: number of blocks.
      heads: attention heads.
      head_dim: width of a head; the width of a token is heads times head_dim.
      resample_after: block indices after which the image grid is halved (encoder) or doubled (decoder).
      axes_dims: rotary channels of the axes (query index, row, column); they sum to `head_dim`.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: blocks per iteration of the layer scan; more compile slower and run faster on CPU.
    """

    layers: int
    heads: int
    head_dim: int = 64
    resample_after: tuple[int, ...] = ()
    axes_dims: tuple[int, int, int] = (8, 28, 28)
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self):
        if sum(self.axes_dims) != self.head_dim:
            raise ValueError(
                f"axes_dims={self.axes_dims} sum to {sum(self.axes_dims)}, head_dim is {self.head_dim}"
            )
        after = self.resample_after
        if sorted(set(after)) != list(after) or any(not 0 <= index < self.layers for index in after):
            raise ValueError(
                f"resample_after={after} must be increasing block indices below layers={self.layers}"
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def segments(self) -> tuple[int, ...]:
        """Number of blocks before, between and after the resampling steps."""
        edges = [0, *(index + 1 for index in self.resample_after), self.layers]
        return tuple(end - start for start, end in itertools.pairwise(edges))


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """How positions are measured.

    Attributes:
      scale: every image spans coordinates [0, scale - 1] on the finest grid, whatever its resolution; None
        counts cells. It need not be a whole number.
      layout: rotary layout, see `jaxtok.nn.rope`.
    """

    scale: float | int | None = None
    layout: RopeLayout = "half"

    def halved(self, times: int) -> "Coordinates":
        """Those of a grid that was halved so often; the scale is rounded down each time."""
        if self.scale is None or not times:
            return self
        return dataclasses.replace(self, scale=self.scale // 2**times)

    def doubled(self, times: int) -> "Coordinates":
        """Those of a grid that was doubled so often."""
        return self if self.scale is None else dataclasses.replace(self, scale=self.scale * 2**times)

    def tables(self, queries: int, grid: tuple[int, int], axes_dims: tuple[int, ...]) -> Rope:
        """Rotary tables of K queries followed by the cells of a grid."""
        index = jnp.arange(queries, dtype=jnp.float32)[:, None]
        cells = grid_coordinates(*grid, self.scale)
        positions = jnp.concatenate([jnp.pad(index, ((0, 0), (0, 2))), jnp.pad(cells, ((0, 0), (1, 0)))])
        return rope_tables(positions, axes_dims, layout=self.layout)


def _stack(shape: ViTShape, layers: int, dtype: Any, name: str) -> Stack:
    block = Block(shape.heads, shape.head_dim, 4 * shape.width, dtype=dtype, parent=None)
    return Stack(block, layers, shape.remat, min(shape.unroll, layers), name=name)


class QueryEncoder(nn.Module):
    """Image to K features.

    Attributes:
      shape: size of the transformer.
      tokens: K.
      patch: patch side in pixels.
      coordinates: how positions are measured.
      dtype: computation dtype.
    """

    shape: ViTShape
    tokens: int
    patch: int
    coordinates: Coordinates = Coordinates()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B K D"]:
        """Encodes float images in [-1, 1].

        Raises:
          ValueError: sides that do not divide by patch * 2**(number of halvings).
        """
        batch, height, width, _ = images.shape
        unit = self.patch * 2 ** len(self.shape.resample_after)
        if height % unit or width % unit:
            raise ValueError(
                f"images of {height}x{width}: both sides must divide by {unit}; resize or crop them"
            )
        grid = (height // self.patch, width // self.patch)
        x = Dense(self.shape.width, dtype=self.dtype, name="patch")(patchify(images, self.patch))
        queries = self.param(
            "queries", nn.initializers.normal(0.02), (self.tokens, self.shape.width), jnp.float32
        )
        x = jnp.concatenate(
            [jnp.broadcast_to(queries.astype(self.dtype), (batch, *queries.shape)), x], axis=1
        )
        for step, layers in enumerate(self.shape.segments):
            if step:
                cells = x[:, self.tokens :].reshape(batch, *grid, self.shape.width)
                cells = DCDown(dtype=self.dtype, name=f"down_{step - 1}")(cells)
                grid = (grid[0] // 2, grid[1] // 2)
                x = jnp.concatenate([x[:, : self.tokens], cells.reshape(batch, -1, self.shape.width)], axis=1)
            if layers:
                rope = self.coordinates.halved(step).tables(self.tokens, grid, self.shape.axes_dims)
                x, _ = _stack(self.shape, layers, self.dtype, f"stack_{step}")(x, shared={"rope": rope})
        x = RMSNorm(dtype=self.dtype, name="norm")(x[:, : self.tokens])
        return Dense(self.shape.width, dtype=self.dtype, name="out")(x)


class QueryDecoder(nn.Module):
    """K embedded latents to an image of any size.

    Attributes:
      shape: size of the transformer.
      patch: patch side in pixels.
      channels: image channels.
      coordinates: how positions are measured.
      align_after: block after which image tokens are projected for REPA-style alignment (arXiv 2410.06940) in
        training; None: off.
      align_width: width of the target features.
      dtype: computation dtype.
    """

    shape: ViTShape
    patch: int
    channels: int = 3
    coordinates: Coordinates = Coordinates()
    align_after: int | None = None
    align_width: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[jax.Array, "B K D"], size: tuple[int, int], train: bool = False
    ) -> tuple[Float[jax.Array, "B H W C"], dict[str, jax.Array]]:
        """Decodes to `size` = (height, width) pixels.

        Returns:
          Float32 images, not clipped, and features: "alignment" [B, cells, align_width] in training when
            `align_after` is set.

        Raises:
          ValueError: a size that does not divide by patch * 2**(number of doublings), or a block to align
            that does not exist.
        """
        if self.align_after is not None and not 0 <= self.align_after < self.shape.layers:
            raise ValueError(
                f"align_after={self.align_after} must be a block index below layers={self.shape.layers}"
            )
        batch, tokens, _ = latents.shape
        doublings = len(self.shape.resample_after)
        unit = self.patch * 2**doublings
        if size[0] % unit or size[1] % unit:
            raise ValueError(f"cannot decode to {size[0]}x{size[1]}: both sides must divide by {unit}")
        grid = (size[0] // unit, size[1] // unit)
        x = RMSNorm(dtype=self.dtype, name="in_norm")(latents)
        x = Dense(self.shape.width, dtype=self.dtype, name="in")(x)
        mask = self.param("mask", nn.initializers.normal(0.02), (self.shape.width,), jnp.float32).astype(
            self.dtype
        )
        x = jnp.concatenate([x, jnp.broadcast_to(mask, (batch, grid[0] * grid[1], self.shape.width))], axis=1)
        features, first = {}, 0
        for step, layers in enumerate(self.shape.segments):
            if step:
                cells = x[:, tokens:].reshape(batch, *grid, self.shape.width)
                cells = DCUp(dtype=self.dtype, name=f"up_{step - 1}")(cells)
                grid = (grid[0] * 2, grid[1] * 2)
                x = jnp.concatenate([x[:, :tokens], cells.reshape(batch, -1, self.shape.width)], axis=1)
            index = -1 if self.align_after is None or not train else self.align_after - first
            tap = 0 <= index < layers
            if layers:
                # An odd scale does not come back: the decoder starts at the rounded half, and doubles that.
                coordinates = self.coordinates.halved(doublings).doubled(step)
                rope = coordinates.tables(tokens, grid, self.shape.axes_dims)
                stack = _stack(self.shape, layers, self.dtype, f"stack_{step}")
                x, hidden = stack(x, shared={"rope": rope}, collect="hidden" if tap else "nothing")
                if tap:
                    features["alignment"] = self._alignment(hidden[index][:, tokens:])
            first += layers
        x = RMSNorm(dtype=self.dtype, name="norm")(x[:, tokens:])
        pixels = Dense(self.patch**2 * self.channels, dtype=self.dtype, name="pixels")(x)
        return unpatchify(pixels.astype(jnp.float32), *grid, self.patch), features

    def _alignment(self, x):
        x = Dense(self.shape.width, dtype=self.dtype, name="align_1")(x)
        x = nn.relu(nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="align_norm")(x))
        return Dense(self.align_width, dtype=self.dtype, name="align_2")(x)
