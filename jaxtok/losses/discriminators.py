"""Discriminators: networks that score images, or patches of images, as real or reconstructed."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float


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

    @nn.compact
    def __call__(self, image: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B h w"]:
        """Images in [-1, 1] -> one float32 logit per patch; positive means real."""
        smallest = 3 * 2**self.layers
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"PatchGAN with {self.layers} layers needs at least {smallest} x {smallest} pixels, got "
                f"{image.shape[1]} x {image.shape[2]}; use fewer layers"
            )
        x = image
        for layer in range(self.layers + 1):
            channels = self.features * min(2**layer, 8)
            stride = 2 if layer < self.layers else 1
            normalised = self.group_norm and layer > 0
            x = self._conv(channels, stride, use_bias=not normalised, name=f"conv{layer}")(x)
            if normalised:
                groups = math.gcd(channels, max(1, channels // 16))  # of 16 channels where that divides
                x = nn.GroupNorm(num_groups=groups, use_fast_variance=False, name=f"norm{layer}")(x)
            x = nn.leaky_relu(x, 0.2)
        return self._conv(1, 1, use_bias=True, name="head")(x)[..., 0].astype(jnp.float32)

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
