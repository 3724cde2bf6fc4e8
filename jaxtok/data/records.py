"""What a source of records is."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from jaxtok.data.order import permuted

SPLIT_SEED = 20_240_613  # fixed, so that no run trains on what another run of the same data holds out


class Source(ABC):
    """Records by number. Cheap to pickle: worker processes get a copy and open their own files.

    Attributes:
      classes: Names of the classes by label; empty when the source does not know them.
    """

    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def raw(self, index: int) -> dict[str, Any]:
        """Record `index` as stored. "key" is its name, str; "label", if any, an int, -1 unknown; "caption",
        if any, str.
        """

    @abstractmethod
    def identity(self) -> Any:
        """JSON value that changes when the records do. No absolute paths: copies of a data set are equal."""

    def labels(self) -> np.ndarray | None:
        """int64 [len(self)], the label of every record, -1 for none; None where all records must be read."""
        return None

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index`, decoded.

        Raises:
          BadRecord: The record cannot be read or decoded.
        """
        return self.raw(index)


class Subset(Source):
    """Records `start .. start + count` of a fixed permutation of another source (for held-out records)."""

    def __init__(self, source: Source, start: int, count: int):
        self.source, self.start, self.count = source, start, count
        self.classes = source.classes

    def __len__(self) -> int:
        return self.count

    def raw(self, index: int) -> dict[str, Any]:
        return self.source.raw(self._record(index))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self._record(index)]

    def _record(self, index: int) -> int:
        return permuted(self.start + index, len(self.source), SPLIT_SEED)

    def labels(self) -> np.ndarray | None:
        labels = self.source.labels()
        return None if labels is None else labels[[self._record(index) for index in range(self.count)]]

    def identity(self) -> Any:
        return [self.source.identity(), self.start, self.count]


def held_out(source: Source, part: int | float, split: str, path: str) -> Source:
    """The records of a split of files that have no evaluation files of their own: always the same ones.

    Args:
      source: all records.
      part: how many are held out: a fraction below 1, a number from 1 on, 0 for none.
      split: "train" or "eval".
      path: of the files, for messages.

    Raises:
      ValueError: none would be left to train on, or there are none to evaluate on.
    """
    total = len(source)
    count = int(part) if part >= 1 else round(part * total)
    if part > 0:
        count = max(count, 1)
    if count >= total:
        raise ValueError(
            f"data.held_out={part:g} reserves {count} of {total} records in {path}, "
            "which leaves none to train on. Lower it, or give data.eval_path and more data."
        )
    if split == "train":
        return Subset(source, count, total - count) if count else source
    if not count:
        raise ValueError("there is no evaluation split: data.held_out is 0. Raise it or set data.eval_path.")
    return Subset(source, 0, count)
