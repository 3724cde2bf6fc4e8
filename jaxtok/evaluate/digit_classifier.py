"""An independent scorer of generated digits: does the image show the digit that the caption asked for?

The scorer is a scikit-learn support vector machine on 8x8 pixels, trained on the real training digits. It
shares nothing with the models that it scores, takes a fraction of a second to train, and is deterministic.
Always report its own accuracy on held-out real digits beside a number of generated ones: that is the most a
perfect generator can expect.
"""

import functools
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, UInt8
from sklearn.svm import SVC

from jaxtok.codes import Array
from jaxtok.data.embedded import Digits
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.resizing import area_resize

SIDE = 8  # pixels; what the real scans have
CLASSES = 10


class DigitScorer:
    """Classifies images of single digits.

    Attributes:
      real_accuracy: accuracy on the held-out real digits.
      real_count: number of held-out real digits.
    """

    def __init__(self, classifier: SVC, images: UInt8[np.ndarray, "B H W C"], labels: Int[np.ndarray, " B"]):
        """Wraps a fitted classifier of `SIDE * SIDE` values in [0, 1].

        Args:
          classifier: the fitted classifier.
          images: held-out real digits, on which it reports its own accuracy.
          labels: their digits.
        """
        self._classifier = classifier
        self.real_accuracy, self.real_count = self.accuracy(images, labels), len(images)

    def predict(self, images: UInt8[Array, "B H W C"]) -> Int[np.ndarray, " B"]:
        """The digit in each image, 0 to 9.

        Args:
          images: bright digits on black, any size; resized by area to 8x8, channels averaged.

        Raises:
          ValueError: not uint8 [B, H, W, C].
        """
        return self._classifier.predict(_pixels(images)).astype(np.int32)

    def accuracy(self, images: UInt8[Array, "B H W C"], labels: Int[Array, "..."]) -> float:
        """Fraction of images that show the digit of their label.

        Raises:
          ValueError: no images, a label outside 0 to 9 (-1 means unknown), or another number of labels than
            images.
        """
        labels = np.asarray(labels)
        if len(images) == 0 or labels.shape != (len(images),):
            raise ValueError(
                f"{len(images)} images and labels of shape {labels.shape}: give one label per image"
            )
        if labels.min() < 0 or labels.max() >= CLASSES:
            raise ValueError(
                f"labels span [{labels.min()}, {labels.max()}]: digits are 0 to 9, unknown ones cannot count"
            )
        return float(np.mean(self.predict(images) == labels))

    def result(self, images: UInt8[Array, "B H W C"], labels: Int[Array, "..."], **protocol: Any) -> Result:
        """`class_accuracy_digits_svc`, higher is better, with the scorer's own accuracy in the protocol.

        Args:
          images: generated or reconstructed digits.
          labels: the digit that each was asked to show.
          **protocol: what the scorer cannot know: sampler, steps, guidance, weights, seed.
        """
        own = {"scorer": "svc-rbf 8x8", "scorer_accuracy_on_real": round(self.real_accuracy, 6)}
        shared = {"images": len(images), "size": list(images.shape[1:]), "resize": "area to 8x8"}
        return Result(
            "class_accuracy_digits_svc", self.accuracy(images, labels), {**own, **shared, **protocol}
        )


@functools.cache
def digit_classifier() -> DigitScorer:
    """The scorer, trained once per process on the real training digits (SVC, RBF kernel, C = 10)."""
    train_images, train_labels = real_digits("train")
    # The width of the kernel comes from the variance of the pixels; no random numbers are involved anywhere.
    classifier = SVC(kernel="rbf", C=10.0, gamma="scale").fit(_pixels(train_images), train_labels)
    return DigitScorer(classifier, *real_digits("eval"))


def real_digits(split: Literal["train", "eval"]) -> tuple[np.ndarray, np.ndarray]:
    """All uint8 images [B, 8, 8, 1] of a split and their labels."""
    source = Digits().open(split)
    records = [source[index] for index in range(len(source))]
    return np.stack([record["image"] for record in records]), np.array(
        [record["label"] for record in records]
    )


def _pixels(images: Array) -> np.ndarray:
    """[B, SIDE * SIDE] float64 in [0, 1] from uint8 images."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4:
        raise ValueError(f"images are {array.dtype}{list(array.shape)}: the scorer takes uint8 [B, H, W, C]")
    return area_resize(array, SIDE).mean(axis=-1).reshape(len(array), -1) / 255
