"""Batches of NumPy arrays, a pure function of the step: any number of hosts and workers sees the same data.

The position in the data is one integer, the step. Global example `g = step * batch_size + i` is record
`record_at(g)`, augmented by a generator seeded with `g`, at a resolution seeded with the step; host `p` of `P` makes the rows
`i` of the p-th of P equal slices. Nothing else is state, so to resume is to start at a step.
"""

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxtok.data.config import Data, Split
from jaxtok.data.errors import BadDataError, BadRecord
from jaxtok.data.order import augmentation_generator, record_at, size_at
from jaxtok.data.records import Source
from jaxtok.data.sources import open_source
from jaxtok.data.transforms import augment, prepare
from jaxtok.nn.byte_text import byte_ids

Batch = dict[str, np.ndarray]

_log = logging.getLogger(__name__)
_CONSECUTIVE_BAD = 16  # a longer row of bad records is no accident
_FEW_RECORDS = 100  # a fraction of fewer records than this says nothing yet
_KEYS_SHOWN = 5
_PICTURE_FIELDS = (  # what changes the content of a batch's images and captions
    "image_sizes", "channels", "text_length", "crop", "crop_scale", "crop_ratio", "flip", "resize",
)  # fmt: skip


class Pipeline:
    """The batches of one split for one host.

    A batch is a dict of NumPy arrays with b = batch_size / process_count rows:
    "image" uint8 [b, S, S, C]; "label" int32 [b], -1 unknown; "text" int32 [b, T] and "text_mask" bool [b, T] when
    `data.text_length > 0`; "index" int64 [b], the record in its split, -1 for padding; "mask" bool [b], False for rows that
    must not count (only in evaluation batches).

    Attributes:
      data: The configuration, with `seed` if one was given.
      source: The records.
      counters: "records_seen" and "records_bad" by this host since the pipeline was made.
    """

    def __init__(
        self,
        data: Data,
        split: Split = "train",
        seed: int | None = None,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Opens the split.

        Args:
          data: The configuration.
          split: "train" or "eval".
          seed: Replaces `data.seed`, for runs that have a seed of their own.
          process_index: This host.
          process_count: Number of hosts.

        Raises:
          ValueError: The configuration or the files are wrong, the batch does not divide over the hosts, or there are
            fewer records than hosts.
        """
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index is {process_index}, but must be in [0, {process_count}), the number of processes."
            )
        if data.batch_size % process_count:
            raise ValueError(
                f"global batch {data.batch_size} does not divide over {process_count} hosts. "
                f"Use a multiple of {process_count}."
            )
        self.data = data if seed is None else dataclasses.replace(data, seed=seed)
        self.split = split
        self.source = open_source(self.data, split)
        if len(self.source) < process_count:
            raise ValueError(
                f"{len(self.source)} records in split {split!r} but {process_count} hosts: every host needs at least one. "
                "Use fewer hosts or more data."
            )
        self.process_index = process_index
        self.local_size = data.batch_size // process_count
        self.counters = {"records_seen": 0, "records_bad": 0}
        self._bad_keys: list[str] = []

    def __len__(self) -> int:
        """Records in the split."""
        return len(self.source)

    @property
    def fingerprint(self) -> str:
        """Hash of what the data is: records (names and sizes of files), split and transforms; 16 hex digits.

        Two data sets with equal fingerprints give the same images; where they lie, their order, the batch size and the number
        of hosts and workers do not matter. A file edited without changing its size goes unnoticed.
        """
        pictures = {name: getattr(self.data, name) for name in _PICTURE_FIELDS}
        text = json.dumps([self.data.source, self.split, self.source.identity(), pictures])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This host's training batches from `start_step` on, without end: shuffled, augmented, multi-scale."""
        steps = grain.MapDataset.range(start_step, sys.maxsize)
        return self._read(steps, _TrainingBatch(self.source, self.data, *self._rows()))

    def evaluation_batches(self, size: int | None = None) -> Iterator[Batch]:
        """One pass over the split in order, without augmentation; every host makes the same number of batches.

        The last batch is filled up with rows whose "mask" is False; so is the mask of a record that cannot be decoded.

        Args:
          size: Side of the images; the largest of `data.image_sizes` when not given.
        """
        steps = grain.MapDataset.range(-(-len(self.source) // self.data.batch_size))
        size = size or max(self.data.image_sizes)
        return self._read(steps, _EvaluationBatch(self.source, self.data, *self._rows(), size))

    def _rows(self) -> tuple[int, int]:
        start = self.process_index * self.local_size
        return start, start + self.local_size

    def _read(self, steps: grain.MapDataset, make: Callable[[int], Any]) -> Iterator[Batch]:
        workers, prefetch = self.data.workers, self.data.prefetch
        # Workers are parallel already: threads inside them would only multiply the batches in flight.
        threads = 0 if workers else prefetch
        dataset = steps.map(make).to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=threads))
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain reads its flags, which only exist after `absl.app.run`
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
            )
        iterator = iter(dataset)
        try:
            for batch, bad in iterator:
                self._count(len(batch["index"]), bad)
                # Out of the shared memory in which a worker hands it over, so that this is free again at once.
                yield {name: np.array(value) for name, value in batch.items()} if workers else batch
        finally:
            iterator.close()

    def _count(self, seen: int, bad: list[tuple[str, str]]) -> None:
        self.counters["records_seen"] += seen
        self.counters["records_bad"] += len(bad)
        for key, reason in bad:
            if key not in self._bad_keys:
                self._bad_keys.append(key)
                _log.warning("record %s cannot be decoded and is replaced (%s)", key, reason)
        seen, count = self.counters["records_seen"], self.counters["records_bad"]
        if count > self.data.max_bad_fraction * max(seen, _FEW_RECORDS):
            raise BadDataError(
                f"{count} of {seen} records cannot be decoded, more than max_bad_fraction="
                f"{self.data.max_bad_fraction} allows: {', '.join(self._bad_keys[:_KEYS_SHOWN])}"
                f"{', ...' if len(self._bad_keys) > _KEYS_SHOWN else ''}. "
                "Repair or remove them, or raise --data.max-bad-fraction."
            )


@dataclasses.dataclass(frozen=True)
class _TrainingBatch:
    """Step -> (batch, [(key, reason) of bad records]). A class, not a closure, so that worker processes can receive it."""

    source: Source
    data: Data
    start: int
    stop: int

    def __call__(self, step: int) -> tuple[Batch, list[tuple[str, str]]]:
        size = size_at(step, self.data.image_sizes, self.data.seed)
        rows, bad = [], []
        for example in range(
            step * self.data.batch_size + self.start, step * self.data.batch_size + self.stop
        ):
            index, record = _read_or_replace(
                self.source, record_at(example, len(self.source), self.data.seed), bad
            )
            generator = augmentation_generator(example, self.data.seed)
            rows.append((index, record, augment(record["image"], size, self.data, generator), True))
        return _collate(rows, self.data.text_length), bad


@dataclasses.dataclass(frozen=True)
class _EvaluationBatch:
    """Step of one pass in order -> (batch, [(key, reason) of bad records])."""

    source: Source
    data: Data
    start: int
    stop: int
    size: int

    def __call__(self, step: int) -> tuple[Batch, list[tuple[str, str]]]:
        nothing = {"label": -1, "caption": ""}
        blank = np.zeros((self.size, self.size, self.data.channels), np.uint8)
        rows, bad = [], []
        for wanted in range(
            step * self.data.batch_size + self.start, step * self.data.batch_size + self.stop
        ):
            if wanted >= len(self.source):
                rows.append((-1, nothing, blank, False))
                continue
            index, record = _read_or_replace(self.source, wanted, bad)
            rows.append((index, record, prepare(record["image"], self.size, self.data), index == wanted))
        return _collate(rows, self.data.text_length), bad


def _read_or_replace(source: Source, index: int, bad: list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
    """Record `index`, or the next one that can be decoded; appends those that cannot to `bad`."""
    failures = []
    for candidate in range(index, index + min(_CONSECUTIVE_BAD, len(source))):
        try:
            found = candidate % len(source), source[candidate % len(source)]
            bad += failures[:1]  # the others in the row are reported when it is their turn
            return found
        except BadRecord as error:
            failures.append((error.key, error.reason))
    raise BadDataError(
        f"{len(failures)} records in a row cannot be decoded, from {failures[0][0]} ({failures[0][1]}) "
        f"to {failures[-1][0]}. Check that data.source and data.path belong together."
    )


def _collate(rows: list[tuple[int, dict[str, Any], np.ndarray, bool]], text_length: int) -> Batch:
    indices, records, images, mask = zip(*rows)
    batch = {
        "image": np.stack(images),
        "label": np.array([record["label"] for record in records], np.int32),
        "index": np.array(indices, np.int64),
        "mask": np.array(mask, bool),
    }
    if text_length:
        batch["text"], batch["text_mask"] = byte_ids([record["caption"] for record in records], text_length)
    return batch
