"""Real images that come inside the wheels of scikit-learn and scikit-image: nothing is downloaded."""

from typing import Any

import numpy as np

from jaxtok.data.config import Split
from jaxtok.data.records import SPLIT_SEED, ArraySource, Source

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_HELD_OUT = 297


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
    return ArraySource(
        images,
        bunch.target[chosen],
        captions,
        name=f"digits-{split}",
        channels=channels,
        classes=DIGIT_NAMES,
    )
