"""Real images that come inside the wheels of scikit-learn and scikit-image: nothing is downloaded."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.dataset import Split, check_split
from jaxtok.data.image_data import ImageData
from jaxtok.data.image_files import decode_image
from jaxtok.data.image_sources import ImageArrays, ImageSource
from jaxtok.data.records import SPLIT_SEED, Source

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_HELD_OUT = 297


@functools.cache
def digits(split: Split, channels: int) -> Source:
    """1797 scans of handwritten digits (UCI), 8x8: 1500 to train, 297 to evaluate, always the same ones.

    Labels are the digits; captions read "a handwritten seven".
    """
    from sklearn.datasets import load_digits  # slow to import

    bunch: Any = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(bunch.target))
    chosen = order[:DIGITS_HELD_OUT] if split == "eval" else order[DIGITS_HELD_OUT:]
    images = np.round(bunch.images[chosen, :, :, None] * (255 / 16)).astype(np.uint8)
    captions = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)
    return ImageArrays(
        images,
        bunch.target[chosen],
        captions,
        name=f"digits-{split}",
        channels=channels,
        classes=DIGIT_NAMES,
    )


@dataclass(frozen=True, kw_only=True)
class Digits(ImageData):
    """1797 scans of handwritten digits in 8x8 pixels, embedded; see `digits`."""

    kind = "digits"

    def open(self, split: Split) -> Source:
        """See `Dataset.open`."""
        check_split(split)
        return digits(split, self.channels)


# file in the wheel -> what the photograph shows. The last one is held out: no part of it is ever trained on.
PHOTOS = {
    "skimage/data/astronaut.png": "an astronaut",
    "skimage/data/chelsea.png": "a cat",
    "sklearn/datasets/images/china.jpg": "a temple",
    "sklearn/datasets/images/flower.jpg": "a flower",
    "skimage/data/motorcycle_left.png": "a motorcycle",
    "skimage/data/rocket.jpg": "a rocket",
    "skimage/data/coffee.png": "a cup of coffee",
}
_TRAIN_CROPS, _EVAL_CROPS = 8192, 512
_SMALLEST_CROP = 128  # pixels; smaller ones of these photographs show mostly blur


class PhotoCrops(ImageSource):
    """Random square crops of natural photographs, at their own resolution; labels number the photographs."""

    classes = tuple(PHOTOS.values())

    def __init__(self, split: Split, channels: int):
        self.split, self.channels = split, channels
        files = list(PHOTOS)
        self.files = files[-1:] if split == "eval" else files[:-1]

    def __len__(self) -> int:
        return _EVAL_CROPS if self.split == "eval" else _TRAIN_CROPS

    def raw(self, index: int) -> dict[str, Any]:
        generator = np.random.default_rng((SPLIT_SEED, self.split == "eval", index))
        file = self.files[generator.integers(len(self.files))]
        photo = _photo(file, self.channels)
        height, width = photo.shape[:2]
        # Log-uniform: as many crops of 128 to 200 pixels as of 200 to 312.
        side = round(float(np.exp(generator.uniform(np.log(_SMALLEST_CROP), np.log(min(height, width))))))
        top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
        return {
            "image": photo[top : top + side, left : left + side],
            "label": list(PHOTOS).index(file),
            "caption": f"part of a photo of {PHOTOS[file]}",
            "key": f"{Path(file).name}/{index}",
        }

    def identity(self) -> Any:
        return [self.files, len(self)]


@dataclass(frozen=True, kw_only=True)
class Photos(ImageData):
    """Crops of seven natural photographs, embedded; see `PhotoCrops`."""

    kind = "photos"

    def open(self, split: Split) -> Source:
        """See `Dataset.open`."""
        check_split(split)
        return PhotoCrops(split, self.channels)


@functools.lru_cache(maxsize=16)
def _photo(file: str, channels: int) -> np.ndarray:
    package, _, rest = file.partition("/")
    found = importlib.util.find_spec(package)  # finds the files without the seconds that importing would take
    path = (
        Path(found.submodule_search_locations[0], rest)
        if found and found.submodule_search_locations
        else None
    )
    if path is None or not path.exists():
        raise ValueError(
            f"{file} is not in this environment. Install scikit-learn and scikit-image from wheels."
        )
    return decode_image(path.read_bytes(), channels, file)
