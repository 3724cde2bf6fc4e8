"""Scorers say whether images show what they should: `(uint8 images, labels, captions) -> results`."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxtok.evaluate.protocol import Result

Scorer = Callable[[np.ndarray, np.ndarray, Sequence[str]], list[Result]]


def scorer_named(name: str) -> Scorer | None:
    """The scorer of a data set: "digits", "digits_frechet" (which compares distributions too), "shapes", or
    "none".
    """
    return {
        "digits": digit_accuracy,
        "digits_frechet": digit_distribution,
        "shapes": scene_accuracy,
        "none": None,
    }[name]


def digit_accuracy(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
    """The independent classifier of digits as a scorer."""
    from jaxtok.evaluate.digit_classifier import digit_classifier  # scikit-learn is slow to import

    del captions
    return [digit_classifier().result(images, labels)]


def digit_distribution(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
    """The classifier of digits, and the Frechet distance to real ones, which sees variety too."""
    from jaxtok.evaluate.frechet import digit_frechet

    return [*digit_accuracy(images, labels, captions), digit_frechet(images)]


def scene_accuracy(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
    """Exact comparison of captioned shapes with their captions as a scorer."""
    from jaxtok.evaluate.scenes import scene_results

    del labels
    return scene_results(captions, images)
