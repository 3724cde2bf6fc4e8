"""One-dimensional tokenizer with learned positions: latent tokens behind an image in a plain ViT (TiTok,
arXiv 2406.07550; with text in the decoder TA-TiTok, arXiv 2501.07730).

    encoder   [class, patches, latents]         keeps the latents
    decoder   [class, masks, latents (, text)]  keeps the masks

Blocks are those of CLIP: layer norms in front, biases everywhere, exact GELU. Every token has a learned
position, so that an image has one size. `query_vit` is its sibling with rotary positions, which has any size.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import Condition
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.patches import patchify, unpatchify
from jaxtok.nn.transformer import Block, Remat, Stack

Text = Float[jax.Array, "B T F"] | Condition | None  # what a decoder may read beside the latents

_SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}


@dataclasses.dataclass(frozen=True)
class LatentViTShape:
    """Size of one half of the tokenizer.

    Attributes:
      width: D, of a token.
      layers: number of blocks.
      heads: attention heads, a divisor of the width.
      remat: what the backward pass recomputes: nothing, everything, or all but matrix products ("dots").
      unroll: blocks per iteration of the layer scan; more compile slower and run faster on CPU.
    """

    width: int
    layers: int
    heads: int
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} does not divide into heads={self.heads}; choose a divisor")

    @classmethod
    def named(cls, size: str, remat: Remat = "none") -> "LatentViTShape":
        """A published size: "small", "base" or "large".

        Raises:
          ValueError: another name.
        """
        if size not in _SIZES:
            raise ValueError(f"no ViT of size {size!r}; there are {', '.join(_SIZES)}")
        return cls(*_SIZES[size], remat=remat)


class _Tokens(nn.Module):
    """The sequence of one half: what is common to encoder and decoder.

    Attributes:
      shape: size of the transformer.
      cells: patches of an image.
      dtype: computation dtype.
    """

    shape: LatentViTShape
    cells: int
    dtype: Any

    @nn.compact
    def __call__(
        self,
        image: Float[jax.Array, "B C D"],
        latents: Float[jax.Array, "#B N D"] | None = None,
        *more: jax.Array,
    ) -> Float[jax.Array, "B S D"]:
        """Runs [class, image, latents, more...] through the blocks; learned positions for all but `more`."""
        batch, width = image.shape[0], self.shape.width
        class_token = _learned(self, "class", (1, width))
        positions = _learned(self, "positions", (1 + self.cells, width))
        spread = lambda x: jnp.broadcast_to(x, (batch, *x.shape[-2:])).astype(self.dtype)
        x = jnp.concatenate([spread(class_token), image.astype(self.dtype)], axis=1) + spread(positions)
        if latents is not None:
            more = (latents + _learned(self, "latent_positions", latents.shape[-2:]), *more)
        x = jnp.concatenate([x, *(spread(tokens) for tokens in more)], axis=1)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm_in")(x)
        block = Block(
            self.shape.heads,
            width // self.shape.heads,
            4 * width,
            norm="layer",
            norm_epsilon=1e-5,
            feed_forward="gelu_exact",
            qk_norm=False,
            attention_bias=True,
            feed_forward_bias=True,
            dtype=self.dtype,
            parent=None,
        )
        unroll = min(self.shape.unroll, self.shape.layers)
        return Stack(block, self.shape.layers, self.shape.remat, unroll, name="stack")(x)[0]


def _check_size(size: tuple[int, ...], grid: tuple[int, int], patch: int) -> None:
    if tuple(size) != (grid[0] * patch, grid[1] * patch):
        raise ValueError(
            f"images of {size[0]}x{size[1]}: positions are learned for {grid[0]}x{grid[1]} patches of "
            f"{patch} pixels; resize to {grid[0] * patch}x{grid[1] * patch}"
        )


def _learned(module: nn.Module, name: str, shape: tuple[int, ...]) -> jax.Array:
    return module.param(name, nn.initializers.normal(shape[-1] ** -0.5), shape, jnp.float32)


class LatentEncoder(nn.Module):
    """Image to N features.

    Attributes:
      shape: size of the transformer.
      tokens: N.
      grid: (rows, columns) of patches.
      patch: patch side in pixels.
      features: width of what comes out.
      interleaved: whether the last map reads the normalised latents [N, D] as if their memory were [D, N]:
        feature c of slot n is element c N + n, so that every slot mixes pieces of several latents. The first
        released weights were trained so; there is no other reason for it.
      pooled: (rows, columns) of a grid of N tokens that are the means of the patches under them, in place of
        latent tokens: the two-dimensional tokenizer that the one-dimensional one is compared with.
      dtype: computation dtype.
    """

    shape: LatentViTShape
    tokens: int
    grid: tuple[int, int]
    patch: int
    features: int
    interleaved: bool = False
    pooled: tuple[int, int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B N E"]:
        """Encodes float images in [-1, 1] (inside they are in [0, 1]), all of one size.

        Raises:
          ValueError: another size than that of the grid.
        """
        _check_size(images.shape[1:3], self.grid, self.patch)
        patches = patchify((images + 1) / 2, self.patch)
        x = Dense(self.shape.width, dtype=self.dtype, name="patch")(patches)
        run = _Tokens(self.shape, patches.shape[1], self.dtype, name="tokens")
        if self.pooled is None:
            x = run(x, _learned(self, "latents", (self.tokens, self.shape.width))[None])
            x = x[:, -self.tokens :]
        else:
            x = pool(run(x)[:, 1:], self.grid, self.pooled)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        if self.interleaved:
            x = interleave(x)
        return Dense(self.features, dtype=self.dtype, name="out")(x)


def interleave(x: Float[jax.Array, "B N D"]) -> Float[jax.Array, "B N D"]:
    """Reads the memory of every [N, D] as [D, N], transposed: channel c of slot n is element c N + n."""
    batch, tokens, width = x.shape
    return jnp.swapaxes(x.reshape(batch, width, tokens), 1, 2)


def pool(
    x: Float[jax.Array, "B C D"], grid: tuple[int, int], target: tuple[int, int]
) -> Float[jax.Array, "B N D"]:
    """Means of the cells of a grid under each cell of a coarser one, row by row.

    Raises:
      ValueError: the coarser grid does not divide the finer one.
    """
    if grid[0] % target[0] or grid[1] % target[1]:
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} patches cannot be pooled to {target[0]}x{target[1]}")
    blocks = (target[0], grid[0] // target[0], target[1], grid[1] // target[1])
    x = jnp.mean(x.reshape(x.shape[0], *blocks, x.shape[-1]), axis=(2, 4))
    return x.reshape(x.shape[0], -1, x.shape[-1])


class LatentDecoder(nn.Module):
    """N embedded latents to one vector per patch, and those to pixels or to logits of proxy codes.

    Attributes:
      shape: size of the transformer.
      grid: (rows, columns) of patches.
      patch: patch side in pixels.
      head: "pixels" (a linear map, then a 3x3 convolution over the image) or "codes" (logits of the codes
        that another tokenizer has for the patch).
      channels: image channels.
      codes: number of proxy codes.
      text_length: T, text tokens that the decoder reads beside the latents; 0 for none.
      text_encoder: module that turns a `Condition` into features [L, B, T, F], of which the last layer is
        read, and a mask; None where the text comes as features.
      dtype: computation dtype.
    """

    shape: LatentViTShape
    grid: tuple[int, int]
    patch: int
    head: Literal["pixels", "codes"] = "pixels"
    channels: int = 3
    codes: int = 1024
    text_length: int = 0
    text_encoder: nn.Module | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        latents: Float[jax.Array, "B N E"],
        size: tuple[int, int],
        train: bool = False,
        text: Text = None,
    ) -> tuple[Float[jax.Array, "B H W C"] | None, dict[str, jax.Array]]:
        """Decodes to `size` = (height, width) pixels, which must be that of the grid.

        Args:
          latents: embedded.
          size: in pixels.
          train: makes no difference.
          text: the text's tokens, for a decoder with `text_length`: their features, or what `text_encoder`
            makes features of. Features behind the end of a text are zero then.

        Returns:
          Float32 images around [-1, 1], not clipped, and no features; of a head of codes no images, and
          "logits" float32 [B, patches, codes].

        Raises:
          ValueError: another size; text for a decoder that reads none, no text for one that does, or text of
            another length.
        """
        del train
        cells, width = self.grid[0] * self.grid[1], self.shape.width
        _check_size(size, self.grid, self.patch)
        features = self._features(text)
        if (0 if features is None else features.shape[1]) != self.text_length:
            given = "none was given" if features is None else f"{features.shape[1]} were given"
            raise ValueError(
                f"this decoder reads text_length={self.text_length} text tokens, but {given}; pass `text` of "
                "that length, or none to a decoder without text"
            )
        x = Dense(width, dtype=self.dtype, name="in")(latents)
        mask = _learned(self, "mask", (1, width))
        masks = jnp.broadcast_to(mask, (latents.shape[0], cells, width))
        more = () if features is None else (self._text(features),)
        x = _Tokens(self.shape, cells, self.dtype, name="tokens")(masks, x, *more)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x[:, 1 : 1 + cells])
        if self.head == "codes":
            x = jnp.tanh(Dense(2 * width, dtype=self.dtype, name="hidden")(x))
            return None, {"logits": Dense(self.codes, dtype=self.dtype, name="codes")(x).astype(jnp.float32)}
        x = Dense(self.patch**2 * self.channels, dtype=self.dtype, name="pixels")(x)
        x = unpatchify(x, *self.grid, self.patch)
        x = nn.Conv(self.channels, (3, 3), padding=1, dtype=self.dtype, name="smooth")(x)
        return 2 * x.astype(jnp.float32) - 1, {}

    def _features(self, text: Text) -> Any:
        if isinstance(text, Condition) and self.text_encoder is not None:
            features, mask = self.text_encoder(text)
            return jnp.where(mask[..., None], features[-1], 0)
        if text is not None and isinstance(text, Condition) == (self.text_encoder is None):
            wanted = "features" if self.text_encoder is None else "a `Condition`"
            raise ValueError(f"this decoder reads text as {wanted}, got {type(text).__name__}")
        return text

    def _text(self, text):
        x = Dense(self.shape.width, dtype=self.dtype, name="text")(text)
        return x + _learned(self, "text_positions", (self.text_length, self.shape.width))
