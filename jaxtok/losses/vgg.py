"""VGG16 up to relu5_3 and LPIPS on top of it (arXiv 1409.1556, 1801.03924).

LPIPS compares two images by the features of a frozen classifier:

    d(x, y) = sum_l mean_hw sum_c w_lc (f_lc(x) - f_lc(y))^2,    f_l = F_l / ||F_l||_channels,    w_lc >= 0

over the five maps F_l after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, with weights w fitted to human
judgements. As a training loss the network is frozen and there is no dropout. The AlexNet variant, which the
`lpips` package evaluates with by default, gives other numbers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.weights import Entry, Table, conv, reshape

# Channels and number of 3x3 convolutions between max-pools.
VGG16_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Positions of the convolutions in torchvision's `vgg16().features`, in order.
TORCHVISION_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# LPIPS's own normalisation of [-1, 1] images. (ImageNet's, moved from [0, 1] to [-1, 1] and rounded.)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# The four max-pools between the maps halve the image, rounding down.
SMALLEST_IMAGE = 16


class VGG16(nn.Module):
    """The convolutional part of VGG16.

    Attributes:
        dtype: computation dtype; parameters are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[jax.Array, "B H W 3"]) -> tuple[Float[jax.Array, "B _ _ _"], ...]:
        """Normalised RGB images, at least 16 x 16 -> the maps after relu1_2, 2_2, 3_3, 4_3 and 5_3."""
        if min(image.shape[1:3]) < SMALLEST_IMAGE:
            raise ValueError(
                f"VGG16 halves the image four times and needs at least {SMALLEST_IMAGE} pixels a side, got "
                f"{image.shape[1]} x {image.shape[2]}; resize the images, or use embedded_features()"
            )
        maps = []
        x = image
        for block, (channels, convolutions) in enumerate(VGG16_BLOCKS, 1):
            x = x if block == 1 else nn.max_pool(x, (2, 2), (2, 2))
            for layer in range(1, convolutions + 1):
                name = f"conv{block}_{layer}"
                x = nn.relu(nn.Conv(channels, (3, 3), padding=1, dtype=self.dtype, name=name)(x))
            maps.append(x)
        return tuple(maps)


class LPIPS(nn.Module):
    """The LPIPS distance with VGG16.

    Attributes:
        dtype: computation dtype of the network; the distance itself is float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B H W 3"], y: Float[jax.Array, "B H W 3"]
    ) -> Float[jax.Array, "B"]:
        """Images in [-1, 1] -> one distance per pair."""
        vgg = VGG16(dtype=self.dtype, name="vgg")
        weights = [
            self.param(f"linear{level}", nn.initializers.ones, (channels,))
            for level, (channels, _) in enumerate(VGG16_BLOCKS)
        ]
        return feature_distance(vgg(_normalise(x)), vgg(_normalise(y)), weights)


def feature_distance(
    maps_x: tuple[Float[jax.Array, "B _ _ _"], ...],
    maps_y: tuple[Float[jax.Array, "B _ _ _"], ...],
    weights: list[Float[jax.Array, "_"]],
) -> Float[jax.Array, "B"]:
    """Sum over maps of the spatial mean of the weighted squared difference of unit-normalised features.

    Args:
        maps_x, maps_y: feature maps of the two batches, NHWC, equal shapes.
        weights: one weight per channel for every map.

    Returns:
        One float32 distance per pair.
    """
    distance = jnp.zeros(maps_x[0].shape[0], jnp.float32)
    for x, y, weight in zip(maps_x, maps_y, weights, strict=True):
        difference = jnp.square(unit_normalise(x) - unit_normalise(y)) * weight.astype(jnp.float32)
        distance += jnp.mean(jnp.sum(difference, axis=-1), axis=(1, 2))
    return distance


def unit_normalise(features: Float[jax.Array, "*shape C"]) -> Float[jax.Array, "*shape C"]:
    """`f / (||f|| + 1e-10)` over channels in float32; zero vectors stay zero and have finite gradients."""
    features = features.astype(jnp.float32)
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # After a ReLU a whole vector can be zero, where the square root's infinite derivative would give 0 * inf.
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return features / (norm + 1e-10)


def lpips_table() -> Table:
    """torchvision's `vgg16` state dict together with the `lin` weights of the `lpips` package."""
    names = [f"conv{b}_{n}" for b, (_, count) in enumerate(VGG16_BLOCKS, 1) for n in range(1, count + 1)]
    entries = []
    for position, name in zip(TORCHVISION_CONVOLUTIONS, names, strict=True):
        entries.append(Entry(f"features.{position}.weight", f"vgg/{name}/kernel", conv))
        entries.append(Entry(f"features.{position}.bias", f"vgg/{name}/bias"))
    for level, (channels, _) in enumerate(VGG16_BLOCKS):
        flat = reshape((channels,), (1, channels, 1, 1))
        entries.append(Entry(f"lin{level}.model.1.weight", f"linear{level}", flat))
    return Table(tuple(entries), unused=(r"classifier\..*",))


def _normalise(image: jax.Array) -> jax.Array:
    return (image.astype(jnp.float32) - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
