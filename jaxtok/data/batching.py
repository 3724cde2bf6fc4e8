"""Step -> this host's rows of the batch: pure, and picklable, so that worker processes can make it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtok.data.config import Data
from jaxtok.data.errors import BadDataError, BadRecord
from jaxtok.data.order import augmentation_generator, record_at, size_at
from jaxtok.data.records import Source
from jaxtok.data.transforms import augment, prepare
from jaxtok.nn.caption_ids import caption_ids

Batch = dict[str, np.ndarray]
Failures = list[tuple[str, str]]  # (key, reason) of records that were replaced

_CONSECUTIVE_BAD = 16  # a longer row of bad records is no accident
_PADDING = {"label": -1, "caption": ""}


@dataclass(frozen=True)
class TrainingBatch:
    """Shuffled, augmented, multi-scale.

    Attributes:
      source: The records.
      data: The configuration.
      rows: This host's rows of the global batch.
    """

    source: Source
    data: Data
    rows: range

    def __call__(self, step: int) -> tuple[Batch, Failures]:
        size = size_at(step, self.data.image_sizes, self.data.seed)
        made, failures = [], []
        for row in self.rows:
            example = step * self.data.batch_size + row
            wanted = record_at(example, len(self.source), self.data.seed)
            index, record = _read_or_replace(self.source, wanted, failures)
            generator = augmentation_generator(example, self.data.seed)
            made.append((index, record, _augmented(record, size, self.data, generator), True))
        return _collate(made, self.data, self.source), failures


@dataclass(frozen=True)
class EncodingBatch:
    """All augmented versions of all records, in order: row `r` of step `s` is entry `e = s * batch_size + r`,
    which is crop `e // records` of record `e % records`. Padded after the last.

    Attributes:
      source: The records.
      data: The configuration.
      augmentations: Versions of each record; 0 for one without augmentation.
    """

    source: Source
    data: Data
    augmentations: int

    def __call__(self, step: int) -> tuple[Batch, Failures]:
        sizes, records = self.data.image_sizes, len(self.source)
        size = size_at(step, sizes, self.data.seed) if self.augmentations else max(sizes)
        made, failures, captions = [], [], []
        for entry in range(step * self.data.batch_size, (step + 1) * self.data.batch_size):
            if entry >= records * max(self.augmentations, 1):
                row = (-1, _PADDING, self.source.blank(size), False)
            else:
                index, record = _read_or_replace(self.source, entry % records, failures)
                if self.augmentations:
                    generator = augmentation_generator(entry, self.data.seed)
                    content = _augmented(record, size, self.data, generator)
                else:
                    content = _prepared(record, size, self.data)
                row = (index, record, content, True)
            made.append(row)
            captions.append(row[1]["caption"])
        batch = _collate(made, self.data, self.source)
        batch["caption"] = np.array(captions)
        return batch, failures


@dataclass(frozen=True)
class EvaluationBatch:
    """In order, without augmentation, padded.

    Attributes:
      source: The records.
      data: The configuration.
      rows: This host's rows of the global batch.
      size: Side of the images in pixels.
    """

    source: Source
    data: Data
    rows: range
    size: int

    def __call__(self, step: int) -> tuple[Batch, Failures]:
        blank = self.source.blank(self.size)
        made, failures = [], []
        for row in self.rows:
            wanted = step * self.data.batch_size + row
            if wanted >= len(self.source):
                made.append((-1, _PADDING, blank, False))
                continue
            index, record = _read_or_replace(self.source, wanted, failures)
            # A replacement counts in its own place already.
            made.append((index, record, _prepared(record, self.size, self.data), index == wanted))
        return _collate(made, self.data, self.source), failures


def _augmented(record: dict[str, Any], size: int, data: Data, generator: np.random.Generator) -> np.ndarray:
    """The image of a training record; codes are as they are."""
    return record["codes"] if "codes" in record else augment(record["image"], size, data, generator)


def _prepared(record: dict[str, Any], size: int, data: Data) -> np.ndarray:
    """The image of a record without augmentation; codes are as they are."""
    return record["codes"] if "codes" in record else prepare(record["image"], size, data)


def _read_or_replace(source: Source, wanted: int, failures: Failures) -> tuple[int, dict[str, Any]]:
    """The wanted record, or else the next one that can be decoded, and its index; notes the failure."""
    found: Failures = []
    for number in range(wanted, wanted + min(_CONSECUTIVE_BAD, len(source))):
        index = number % len(source)
        try:
            record = source[index]
        except BadRecord as error:
            found.append((error.key, error.reason))
            continue
        failures += found[:1]  # the bad ones after it count when it is their turn
        return index, record
    raise BadDataError(
        f"{len(found)} records in a row cannot be decoded: {found[0][0]} ({found[0][1]}) to {found[-1][0]}. "
        "Check that data.source and data.path belong together, and the files."
    )


def _collate(rows: list[tuple[int, dict[str, Any], np.ndarray, bool]], data: Data, source: Source) -> Batch:
    indices, records, contents, mask = zip(*rows)
    batch = {
        source.content: source.stack(contents),
        "label": np.array([record["label"] for record in records], np.int32),
        "index": np.array(indices, np.int64),
        "mask": np.array(mask, bool),
    }
    if data.text_length:
        captions = [record["caption"] for record in records]
        batch["text"], batch["text_mask"] = caption_ids(captions, data.text_length, data.text_model)
    return batch
