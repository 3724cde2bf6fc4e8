"""The embedded feature network: convolutions trained on handwritten digits, in the package itself.

It lets every metric run with nothing downloaded. What it sees are strokes, so its numbers say little about
photographs, and nothing that is made with it is called FID, KID or LPIPS: `rfd_digits`, never `rfid`.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.evaluate.features.network import FeatureNetwork, Features, planes, weights_version
from jaxtok.losses.embedded import DigitFeatures, trained_variables

SIDE = 8  # what it was trained on
SPATIAL_CHANNELS = 7  # as sFID keeps of its layer


@functools.cache
def digit_network() -> FeatureNetwork:
    """The network on images resized by area to 8 x 8. Channels are seen one by one: features stand side by
    side, logits are averaged.
    """
    variables = trained_variables()
    return FeatureNetwork(
        "digits",
        weights_version(variables),
        SIDE,
        "area",
        digit_features,
        variables,
        domain="grey digits of 8x8 pixels",
        domain_size=(SIDE, SIDE, 1),
    )


def digit_features(variables: Any, images: Float[jax.Array, "B H W C"]) -> Features:
    """Features of images in [0, 255]: the pooled last map [B, 64 C], some channels of the second one with
    their places [B, 112 C], logits of the ten digits.
    """
    batch = images.shape[0]
    maps, logits = cast(Any, DigitFeatures().apply(variables, planes(images / 127.5 - 1)))
    pooled = jnp.mean(maps[-1], axis=(1, 2)).reshape(batch, -1)
    spatial = maps[1][..., :SPATIAL_CHANNELS].reshape(batch, -1)
    return Features(pooled, spatial, jnp.mean(logits.reshape(batch, -1, logits.shape[-1]), axis=1))
