"""Step -> this host's rows of the batch: pure, and picklable, so that worker processes can make it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtok.data.dataset import Dataset, Example
from jaxtok.data.errors import BadDataError, BadRecord
from jaxtok.data.order import augmentation_generator, record_at
from jaxtok.data.records import Source

Batch = dict[str, np.ndarray]
Failures = list[tuple[str, str]]  # (key, reason) of records that were replaced

_CONSECUTIVE_BAD = 16  # a longer row of bad records is no accident


@dataclass(frozen=True)
class _Row:
    """One row of a batch: its example, None where it only fills up, its record, and whether it counts."""

    example: Example | None = None
    index: int = -1
    valid: bool = False
    caption: str = ""


@dataclass(frozen=True)
class TrainingBatch:
    """Shuffled and augmented.

    Attributes:
      source: The records.
      data: The data set.
      rows: This host's rows of the global batch.
    """

    source: Source
    data: Dataset
    rows: range

    def __call__(self, step: int) -> tuple[Batch, Failures]:
        made, failures = [], []
        for row in self.rows:
            number = step * self.data.batch_size + row
            wanted = record_at(number, len(self.source), self.data.seed)
            example = functools.partial(_augmented, self.data, step, number)
            made.append(_read_or_replace(self.source, wanted, example, failures))
        return _collate(made, self.data), failures


@dataclass(frozen=True)
class EncodingBatch:
    """All augmented versions of all records, in order: row `r` of step `s` is entry `e = s * batch_size + r`,
    which is version `e // records` of record `e % records`. Padded after the last.

    Attributes:
      source: The records.
      data: The data set.
      augmentations: Versions of each record; 0 for one without augmentation.
    """

    source: Source
    data: Dataset
    augmentations: int

    def __call__(self, step: int) -> tuple[Batch, Failures]:
        made, failures = [], []
        for entry in range(step * self.data.batch_size, (step + 1) * self.data.batch_size):
            if entry >= len(self.source) * max(self.augmentations, 1):
                made.append(_Row())
                continue
            number = entry if self.augmentations else None
            example = functools.partial(_augmented, self.data, step, number)
            made.append(_read_or_replace(self.source, entry % len(self.source), example, failures))
        batch = _collate(made, self.data)
        batch["caption"] = np.array([row.caption for row in made])
        return batch, failures


@dataclass(frozen=True)
class EvaluationBatch:
    """In order, without augmentation, padded.

    Attributes:
      source: The records.
      data: The data set.
      rows: This host's rows of the global batch.
    """

    source: Source
    data: Dataset
    rows: range

    def __call__(self, step: int) -> tuple[Batch, Failures]:
        made, failures = [], []
        for row in self.rows:
            wanted = step * self.data.batch_size + row
            if wanted >= len(self.source):
                made.append(_Row())
                continue
            example = functools.partial(_augmented, self.data, step, None)
            row = _read_or_replace(self.source, wanted, example, failures)
            # A replacement counts in its own place already.
            made.append(dataclasses.replace(row, valid=row.index == wanted))
        return _collate(made, self.data), failures


def _augmented(data: Dataset, step: int, number: int | None, record: Mapping[str, Any]) -> Example:
    """The example of a record as global example `number`, or without augmentation."""
    rng = None if number is None else augmentation_generator(number, data.seed)
    return data.example(record, step, rng)


def _read_or_replace(
    source: Source, wanted: int, example: Callable[[Mapping[str, Any]], Example], failures: Failures
) -> _Row:
    """The wanted record, or else the next one that can be read and made an example of; notes the failure."""
    found: Failures = []
    for number in range(wanted, wanted + min(_CONSECUTIVE_BAD, len(source))):
        index = number % len(source)
        try:
            record = source[index]
            row = _Row(example(record), index, True, record.get("caption", ""))
        except BadRecord as error:
            found.append((error.key, error.reason))
            continue
        failures += found[:1]  # the bad ones after it count when it is their turn
        return row
    raise BadDataError(
        f"{len(found)} records in a row cannot be decoded: {found[0][0]} ({found[0][1]}) to {found[-1][0]}. "
        "Check that data.path and the kind of data belong together, and the files."
    )


def _collate(rows: Sequence[_Row], data: Dataset) -> Batch:
    made = [row.example for row in rows if row.example is not None]
    blank = data.blank(made[0] if made else None)
    return data.collate([blank if row.example is None else row.example for row in rows]) | {
        "index": np.array([row.index for row in rows], np.int64),
        "valid": np.array([row.valid for row in rows], bool),
    }
