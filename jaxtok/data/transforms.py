"""Crops, flips and resizes of uint8 images. All randomness comes from a generator passed in.

A crop is a box `(left, top, width, height)` in source pixels (floats), and one resize reads it. So a crop
costs one interpolation, and is the same part of the image at every resolution.
"""

import math
from typing import Literal

import numpy as np
from PIL import Image

Crop = Literal["none", "center", "random", "random_resized"]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Box = tuple[float, float, float, float]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def whole(height: int, width: int) -> Box:
    """The whole image."""
    return (0.0, 0.0, float(width), float(height))


def center_square(height: int, width: int) -> Box:
    """The largest centred square."""
    side = min(height, width)
    return ((width - side) / 2, (height - side) / 2, float(side), float(side))


def random_square(height: int, width: int, generator: np.random.Generator) -> Box:
    """A largest square at a uniformly random place."""
    side = min(height, width)
    across, down = generator.random(2)
    return (float(across * (width - side)), float(down * (height - side)), float(side), float(side))


def random_resized(
    height: int,
    width: int,
    generator: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """A box of random area, shape and place (Inception's augmentation, arXiv 1409.4842, section 6).

    Args:
      height: Of the image, in pixels.
      width: Of the image, in pixels.
      generator: Source of randomness; always advanced by the same number of draws.
      scale: Smallest and largest area as a fraction of the image's; uniform between.
      ratio: Smallest and largest width / height; log-uniform between. Boxes that stick out are shrunk to fit.
    """
    area_draw, ratio_draw, across, down = generator.random(4)
    area = height * width * (scale[0] + area_draw * (scale[1] - scale[0]))
    shape = math.exp(math.log(ratio[0]) + ratio_draw * (math.log(ratio[1]) - math.log(ratio[0])))
    box_width, box_height = math.sqrt(area * shape), math.sqrt(area / shape)
    shrink = min(1.0, width / box_width, height / box_height)
    box_width, box_height = min(box_width * shrink, float(width)), min(box_height * shrink, float(height))
    return (float(across * (width - box_width)), float(down * (height - box_height)), box_width, box_height)


def flip_horizontal(image: np.ndarray) -> np.ndarray:
    """Mirrors [H, W, C] left to right."""
    return image[:, ::-1]


def resample(image: np.ndarray, size: int, filter: Filter, box: Box | None = None) -> np.ndarray:
    """Resamples a box of an image to a square, antialiased as Pillow does.

    Args:
      image: uint8 [H, W, 1 or 3].
      size: Side of the result in pixels.
      filter: nearest, bilinear, bicubic or lanczos.
      box: Part of the image to read; `None` for all of it.

    Returns:
      uint8 [size, size, C].
    """
    height, width, channels = image.shape
    left, top, box_width, box_height = box or whole(height, width)
    if (left, top, box_width, box_height) == (0, 0, size, size) == (0, 0, width, height):
        return image
    # Rounding may put an edge a hair outside the image, which Pillow refuses.
    edges = (left, top, min(left + box_width, width), min(top + box_height, height))
    picture = Image.fromarray(image[..., 0] if channels == 1 else np.ascontiguousarray(image))
    array = np.asarray(picture.resize((size, size), _FILTERS[filter], box=edges))
    return array[..., None] if channels == 1 else array


def augment(
    image: np.ndarray,
    size: int,
    generator: np.random.Generator,
    *,
    crop: Crop = "center",
    crop_scale: tuple[float, float] = (0.8, 1.0),
    crop_ratio: tuple[float, float] = (0.75, 1.3333333),
    flip: bool = False,
    resize: Filter = "bicubic",
) -> np.ndarray:
    """A training image: crop, resize and flip, see `ImageData`. uint8 [H, W, C] -> uint8 [size, size, C]."""
    height, width = image.shape[:2]
    if crop == "random_resized":
        box = random_resized(height, width, generator, crop_scale, crop_ratio)
    elif crop == "random":
        box = random_square(height, width, generator)
    else:
        box = _fixed_box(height, width, crop)
    image = resample(image, size, resize, box)
    return flip_horizontal(image) if flip and generator.random() < 0.5 else image


def prepare(image: np.ndarray, size: int, *, crop: Crop = "center", resize: Filter = "bicubic") -> np.ndarray:
    """An evaluation image: random crops become centre crops. uint8 [H, W, C] -> uint8 [size, size, C]."""
    height, width = image.shape[:2]
    return resample(image, size, resize, _fixed_box(height, width, crop))


def _fixed_box(height: int, width: int, crop: Crop) -> Box:
    return whole(height, width) if crop == "none" else center_square(height, width)
