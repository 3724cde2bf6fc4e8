"""Discriminators: networks that score images, or patches of images, as real or reconstructed.

Called, a discriminator returns logits, and from `discriminate` the activations of its layers too, for feature
matching. Discriminators of sound: `jaxtok.losses.audio_discriminators`.
"""

import math
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import pytree_dataclass


@pytree_dataclass()
class Discrimination:
    """What a discriminator says of a batch.

    Attributes:
        logits: float32 [B, ...]; positive means real.
        features: the output of each layer behind its activation, [B, ...], in their order.
    """

    logits: Any
    features: Any = ()


@runtime_checkable
class FeatureDiscriminator(Protocol):
    """A discriminator that shows its features."""

    def discriminate(self, x: jax.Array) -> Discrimination | tuple[Discrimination, ...]:
        """Logits and features, or those of several discriminators."""
        ...


class Several(nn.Module):
    """Discriminators that look at the same signals.

    Attributes:
        discriminators: each with `discriminate`; their parameters are "discriminators_0", ...
    """

    discriminators: tuple[Any, ...]

    def __call__(self, x: Float[jax.Array, "B *signal C"]) -> tuple[jax.Array, ...]:
        """The logits of each."""
        return tuple(result.logits for result in self.discriminate(x))

    def discriminate(self, x: Float[jax.Array, "B *signal C"]) -> tuple[Discrimination, ...]:
        """Logits and features of each."""
        return tuple(discriminator.discriminate(x) for discriminator in self.discriminators)


class PatchGAN(nn.Module):
    """A convolutional discriminator of overlapping patches (Isola et al. 2017, arXiv 1611.07004).

    `layers` convolutions with stride 2 (4x4, widths `features * (1, 2, 4, 8, 8, ...)`), one with stride 1
    and one to a single channel; leaky ReLU 0.2 between them. With the defaults a logit sees 70 x 70 pixels.

    The published networks use batch normalisation. Here it is group normalisation or none: batch statistics
    make a logit depend on the other images and on how the batch is split over devices and micro-batches,
    differ between the real and the fake half, and would be a hidden state that a forward pass changes.

    Attributes:
        features: width of the first convolution.
        layers: convolutions with stride 2; the image needs at least `3 * 2**layers` pixels a side.
        group_norm: group normalisation after every convolution but the first and the last.
        dtype: computation dtype; parameters, statistics and logits are float32.
    """

    features: int = 64
    layers: int = 3
    group_norm: bool = True
    dtype: Any = jnp.float32

    @classmethod
    def of_size(cls, side: int) -> "PatchGAN":
        """The published one, and one with two layers for images of less than 64 pixels a side, with one for
        less than 12.
        """
        return cls() if side >= 64 else cls(layers=2 if side >= 12 else 1)

    def __call__(self, image: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B h w"]:
        """Images in [-1, 1] -> one float32 logit per patch; positive means real."""
        return self.discriminate(image).logits

    @nn.compact
    def discriminate(self, image: Float[jax.Array, "B H W C"]) -> Discrimination:
        """The logits [B, h, w], and the features behind every convolution but the last.

        Raises:
            ValueError: an image that is too small.
        """
        smallest = 3 * 2**self.layers
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"PatchGAN with {self.layers} layers needs at least {smallest} x {smallest} pixels, got "
                f"{image.shape[1]} x {image.shape[2]}; use fewer layers"
            )
        x, features = image, []
        for layer in range(self.layers + 1):
            channels = self.features * min(2**layer, 8)
            stride = 2 if layer < self.layers else 1
            normalised = self.group_norm and layer > 0
            x = self._conv(channels, stride, use_bias=not normalised, name=f"conv{layer}")(x)
            if normalised:
                groups = math.gcd(channels, max(1, channels // 16))  # of 16 channels where that divides
                x = nn.GroupNorm(num_groups=groups, use_fast_variance=False, name=f"norm{layer}")(x)
            x = nn.leaky_relu(x, 0.2)
            features.append(x)
        logits = self._conv(1, 1, use_bias=True, name="head")(x)[..., 0].astype(jnp.float32)
        return Discrimination(logits, tuple(features))

    def _conv(self, channels: int, stride: int, use_bias: bool, name: str) -> nn.Conv:
        return nn.Conv(
            channels,
            (4, 4),
            (stride, stride),
            padding=1,
            use_bias=use_bias,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.02),
            name=name,
        )


class BlurGAN(nn.Module):
    """The discriminator of TiTok (arXiv 2406.07550): it blurs before it leaves pixels out, and scores the
    strongest response of every cell of a coarse grid.

    A 5x5 convolution; then, per layer, a 3x3 convolution, a blur with (1, 3, 3, 1) in both directions at
    stride 2 and group normalisation; the maximum over cells; a 1x1 and a 5x5 convolution. Leaky ReLU 0.1
    behind all but the last; widths `features * (1, 1, 2, 4, ...)`.

    Attributes:
        features: width of the first convolution.
        layers: halvings of the image.
        cells: rows and columns of the grid of logits; fewer where the image has no more.
        groups: of the normalisation; divides every width.
        dtype: computation dtype; parameters, statistics and logits are float32.
    """

    features: int = 128
    layers: int = 3
    cells: int = 16
    groups: int = 32
    dtype: Any = jnp.float32

    @classmethod
    def of_size(cls, side: int) -> "BlurGAN":
        """The published one, and a small one for images of less than 64 pixels a side."""
        return cls() if side >= 64 else cls(32, layers=1, cells=math.gcd(side // 2, 4))

    def __call__(self, image: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B h w"]:
        """Images in [-1, 1] (inside in [0, 1]) -> one float32 logit per cell; positive means real.

        Raises:
            ValueError: a halved image that does not divide into the cells.
        """
        return self.discriminate(image).logits

    @nn.compact
    def discriminate(self, image: Float[jax.Array, "B H W C"]) -> Discrimination:
        """The logits [B, h, w], and the features behind every convolution but the last.

        Raises:
            ValueError: a halved image that does not divide into the cells.
        """
        x = nn.leaky_relu(self._conv(self.features, 5, "conv_in")((image + 1) / 2), 0.1)
        features = [x]
        for layer in range(self.layers):
            x = blur(self._conv(self.features * 2**layer, 3, f"conv{layer}")(x))
            norm = nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, name=f"norm{layer}")
            x = nn.leaky_relu(norm(x), 0.1)
            features.append(x)
        x = self._strongest(x)
        x = nn.leaky_relu(self._conv(x.shape[-1], 1, "hidden")(x), 0.1)
        logits = self._conv(1, 5, "head")(x)[..., 0].astype(jnp.float32)
        return Discrimination(logits, (*features, x))

    def _conv(self, channels: int, window: int, name: str) -> nn.Conv:
        return nn.Conv(channels, (window, window), dtype=self.dtype, name=name)

    def _strongest(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        rows, columns = min(height, self.cells), min(width, self.cells)
        if height % rows or width % columns:
            raise ValueError(
                f"{height}x{width} responses do not divide into {rows}x{columns} cells; change `cells`, "
                "`layers` or the size of the images"
            )
        x = x.reshape(batch, rows, height // rows, columns, width // columns, channels)
        return jnp.max(x, axis=(2, 4))


def blur(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B h w C"]:
    """Every second pixel of the image smoothed with (1, 3, 3, 1) / 8 in both directions; zeros around it."""
    taps = jnp.asarray([1.0, 3.0, 3.0, 1.0], x.dtype) / 8
    kernel = jnp.tile(jnp.outer(taps, taps)[:, :, None, None], (1, 1, 1, x.shape[-1]))
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
