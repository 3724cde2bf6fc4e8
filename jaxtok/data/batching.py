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
            made.append((index, record, augment(record["image"], size, self.data, generator), True))
        return _collate(made, self.data), failures


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
        blank = np.zeros((self.size, self.size, self.data.channels), np.uint8)
        made, failures = [], []
        for row in self.rows:
            wanted = step * self.data.batch_size + row
            if wanted >= len(self.source):
                made.append((-1, _PADDING, blank, False))
                continue
            index, record = _read_or_replace(self.source, wanted, failures)
            # A replacement counts in its own place already.
            made.append((index, record, prepare(record["image"], self.size, self.data), index == wanted))
        return _collate(made, self.data), failures


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


def _collate(rows: list[tuple[int, dict[str, Any], np.ndarray, bool]], data: Data) -> Batch:
    indices, records, images, mask = zip(*rows)
    batch = {
        "image": np.stack(images),
        "label": np.array([record["label"] for record in records], np.int32),
        "index": np.array(indices, np.int64),
        "mask": np.array(mask, bool),
    }
    if data.text_length:
        captions = [record["caption"] for record in records]
        batch["text"], batch["text_mask"] = caption_ids(captions, data.text_length, data.text_model)
    return batch
