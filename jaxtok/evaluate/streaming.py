"""The masked float64 mean that per-image metrics go through, and what is masked."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxtok.codes import Array


class StreamingMean:
    """Mean of per-example values over any number of batches, in float64.

    Batch size, order of batches and padding do not change the value (beyond float64 rounding): rows that the
    mask excludes are dropped before the sum, so even a NaN in a padding row leaves no trace. Accumulators of
    several hosts are combined with `merge`.
    """

    def __init__(self):
        self.total = 0.0
        self.squares = 0.0
        self.count = 0

    def update(self, values: Array, mask: Array | None = None) -> None:
        """Adds a batch.

        Args:
          values: [B], one value per example, any real dtype.
          mask: bool [B], False for padding rows; None keeps all.

        Raises:
          ValueError: `values` is not one-dimensional, or the mask has another length.
        """
        kept = np.asarray(values, dtype=np.float64)
        if kept.ndim != 1:
            raise ValueError(
                f"values of shape {kept.shape}: a streaming mean takes one value per example, shape [B]"
            )
        kept = kept[batch_mask(mask, len(kept))]
        self.total += float(kept.sum())
        self.squares += float(np.square(kept).sum())
        self.count += len(kept)

    def merge(self, other: "StreamingMean") -> None:
        """Adds everything that another accumulator has seen."""
        self.total += other.total
        self.squares += other.squares
        self.count += other.count

    @property
    def value(self) -> float:
        """The mean.

        Raises:
          ValueError: nothing was accumulated.
        """
        if self.count == 0:
            raise ValueError("mean of no examples: update() was never called, or every row was masked out")
        return self.total / self.count

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over examples (unbiased variance); NaN for a single example."""
        if self.count < 2:
            return float("nan")
        variance = max(self.squares - self.count * self.value**2, 0.0) / (self.count - 1)
        return float(np.sqrt(variance / self.count))


def batch_mask(mask: Array | None, batch: int) -> np.ndarray:
    """bool [B] from an optional mask; None keeps all.

    Raises:
      ValueError: the mask is not a boolean vector of that length.
    """
    if mask is None:
        return np.ones(batch, bool)
    array = np.asarray(mask)
    if array.shape != (batch,) or array.dtype != bool:
        raise ValueError(
            f"mask is {array.dtype}{list(array.shape)}; it must be bool[{batch}], one entry per example"
        )
    return array


def first_images(
    batches: Iterable[Mapping[str, Any]], count: int
) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
    """Batches of the first `count` images, each with a mask bool [B] that leaves out padding ("mask" of the
    batch) and what is beyond.
    """
    seen = 0
    for batch in batches:
        mask = batch["valid"] & (seen + np.cumsum(batch["valid"]) <= count)
        seen += int(mask.sum())
        yield batch, mask
        if seen >= count:
            return
