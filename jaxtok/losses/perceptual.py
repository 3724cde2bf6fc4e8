"""Perceptual losses: two images are close when a frozen network sees them alike.

Three networks, one interface. Each loader gives a `Perceptual`, whose `variables` are passed as an argument
of the update (frozen and sharded like any other variables) and never closed over:

    perceptual = load_lpips("vgg16.safetensors", "lpips_linear.safetensors")
    loss = jnp.mean(perceptual.distance(variables, x_hat, x))
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.losses.convnext import ConvNeXt, convnext_table
from jaxtok.losses.embedded import WIDTHS, DigitFeatures, trained_variables
from jaxtok.losses.vgg import LPIPS, SMALLEST_IMAGE, feature_distance, lpips_table
from jaxtok.weights import load_table, read_tensors

Source = str | os.PathLike | Mapping[str, Any]
Distance = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Perceptual(NamedTuple):
    """A distance between images and the frozen variables that it needs.

    Attributes:
        distance: `(variables, x, y) -> float32 [B]` on images [B, H, W, C] in [-1, 1]; has gradients
            for both.
        variables: of the frozen network.
    """

    distance: Distance
    variables: Any


@dataclasses.dataclass(frozen=True)
class PerceptualNetwork:
    """Which network to use, without loading it yet; itself the distance `(variables, x, y) -> float32 [B]`.

    Attributes:
        kind: "lpips" or "convnext", which need weights, or "embedded", which needs nothing.
        paths: local files with the weights.
    """

    kind: Literal["lpips", "convnext", "embedded"] = "embedded"
    paths: tuple[str, ...] = ()

    def variables(self) -> Any:
        """The frozen variables; loads them at the first call.

        Raises:
            ValueError: no files for a network that needs them, or files that do not fit.
        """
        return _loaded(self).variables

    def __call__(self, variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        """The distance."""
        return _loaded(self).distance(variables, x, y)


@functools.cache
def _loaded(network: PerceptualNetwork) -> Perceptual:
    if network.kind == "embedded":
        return embedded_features()
    if not network.paths:
        raise ValueError(
            f"the perceptual network {network.kind!r} needs its weights as local files; give their paths, "
            "use 'embedded', or set the perceptual weight to 0"
        )
    return load_lpips(*network.paths) if network.kind == "lpips" else load_convnext(network.paths[0])


def load_lpips(*sources: Source, dtype: Any = jnp.float32) -> Perceptual:
    """LPIPS with VGG16, equation in `jaxtok.losses.vgg`.

    Args:
        sources: local files (or mappings of arrays) that together hold torchvision's `features.*` of VGG16
            and the five `lin*.model.1.weight` of the `lpips` package; see `weights.read_tensors` for the
            formats.
        dtype: computation dtype of the network.

    Raises:
        ValueError: tensors are missing, unexpected or mis-shaped.
    """
    module, size = LPIPS(dtype=dtype), SMALLEST_IMAGE
    tensors = {name: tensor for source in sources for name, tensor in read_tensors(source)[0].items()}
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    expected = jax.eval_shape(module.init, jax.random.key(0), image, image)["params"]
    params, _ = load_table(lpips_table(), tensors, expected)
    return Perceptual(cast(Distance, module.apply), {"params": params})


def load_convnext(source: Source, size: int = 224, dtype: Any = jnp.float32) -> Perceptual:
    """Mean squared difference of ConvNeXt-S's logits, images resized to `size` (TiTok, arXiv 2406.07550).

    Args:
        source: local file (or mapping of arrays) with torchvision's or timm's state dict of `convnext_small`.
        size: side in pixels to which images are resized (bilinear, antialiased); 224 is what it was trained
            with.
        dtype: computation dtype of the network.

    Raises:
        ValueError: tensors are missing, unexpected or mis-shaped.
    """
    module, tensors = ConvNeXt(dtype=dtype), read_tensors(source)[0]
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    expected = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    params, _ = load_table(convnext_table(module, tensors), tensors, expected)
    return Perceptual(functools.partial(logit_distance, module, size), {"params": params})


def embedded_features() -> Perceptual:
    """The fallback without weights: LPIPS's distance, all w = 1, in a network trained on the embedded digits.

    It takes images of any size and any number of channels; every channel is compared by itself, then
    averaged. The weights are part of the package.
    """
    return Perceptual(digit_distance, trained_variables())


def logit_distance(
    module: ConvNeXt,
    size: int,
    variables: Any,
    x: Float[jax.Array, "B H W 3"],
    y: Float[jax.Array, "B H W 3"],
) -> Float[jax.Array, "B"]:
    """Mean over classes of the squared difference of the float32 logits of images in [-1, 1]."""

    def logits(image: jax.Array) -> jax.Array:
        shape = (image.shape[0], size, size, 3)
        resized = jax.image.resize(image.astype(jnp.float32), shape, "bilinear")
        return cast(tuple[Any, jax.Array], module.apply(variables, resized))[1]

    return jnp.mean(jnp.square(logits(x) - logits(y)), axis=-1)


def digit_distance(
    variables: Any, x: Float[jax.Array, "B H W C"], y: Float[jax.Array, "B H W C"]
) -> Float[jax.Array, "B"]:
    """LPIPS's distance with all w = 1 in the features of `DigitFeatures`, averaged over image channels."""
    batch, height, width, channels = x.shape

    def maps(image: jax.Array) -> tuple[jax.Array, ...]:
        planes = jnp.moveaxis(image, -1, 1).reshape(batch * channels, height, width, 1)
        return DigitFeatures().apply(variables, planes)[0]

    distance = feature_distance(maps(x), maps(y), [jnp.ones(width) for width in WIDTHS])
    return jnp.mean(distance.reshape(batch, channels), axis=1)
