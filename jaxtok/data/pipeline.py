"""Batches of NumPy arrays as a pure function of the step: any number of hosts and workers sees the same data.

The position in the data is one integer, the step. Global example `g = step * batch_size + i` is record
`record_at(g)`, augmented by a generator seeded with `g`; what a batch shares is drawn from the step. Host
`p` of `P` makes the p-th of `P` equal slices of the rows `i`. Nothing else is state, so to resume is to start
at a step.
"""

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from jaxtok.data.batching import Batch, EncodingBatch, EvaluationBatch, Failures, TrainingBatch
from jaxtok.data.dataset import Dataset, Split, check_split
from jaxtok.data.errors import BadDataError

_log = logging.getLogger(__name__)
_FEW_RECORDS = 100  # a fraction of fewer records than this says nothing yet
_KEYS_SHOWN = 5


class Pipeline:
    """The batches of one split for one host.

    A batch is a dict of NumPy arrays with b = batch_size / process_count rows:

    * the arrays of the data set's `fields`, with `<name>_mask` bool [b, length] of those with lengths
    * "index" int64 [b], the record's number in the split, -1 for padding
    * "valid" bool [b], False on rows of an evaluation batch that must not count

    Attributes:
      data: The data set, with `seed` if one was given.
      source: The records.
      counters: "records_seen" and "records_bad" by this host since the pipeline was made.
    """

    def __init__(
        self,
        data: Dataset,
        split: Split = "train",
        seed: int | None = None,
        *,
        process_index: int = 0,
        process_count: int = 1,
        classes: int = 0,
    ):
        """Opens the split.

        Args:
          data: The data set.
          split: "train" or "eval".
          seed: Replaces `data.seed`, for runs that have a seed of their own.
          process_index: This host.
          process_count: Number of hosts.
          classes: Labels above are an error, where there are any; 0 for any label.

        Raises:
          ValueError: The files are wrong, there is no such split, the batch does not divide over the hosts,
            or there are fewer records to train on than hosts.
        """
        check_split(split)
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index is {process_index}, but must be in [0, {process_count}).")
        if data.batch_size % process_count:
            raise ValueError(
                f"global batch {data.batch_size} does not divide over {process_count} hosts. "
                f"Set data.batch_size to a multiple of {process_count}."
            )
        self.data = data if seed is None else dataclasses.replace(data, seed=seed)
        self.split: Split = split
        self.source = self.data.open(split)
        if split == "train" and len(self.source) < process_count:  # evaluation pads instead
            raise ValueError(
                f"{len(self.source)} records but {process_count} hosts: "
                "every host needs at least one. Use fewer hosts or more data."
            )
        local = data.batch_size // process_count
        self._rows = range(process_index * local, (process_index + 1) * local)
        self.counters = {"records_seen": 0, "records_bad": 0}
        self._bad_keys: list[str] = []
        self._classes = classes

    def __len__(self) -> int:
        """Records in the split."""
        return len(self.source)

    @property
    def fingerprint(self) -> str:
        """Hash of what the data is: records, split and transforms; 16 hex digits.

        Where the files lie, the order of the records, the batch size and the number of hosts and workers do
        not matter. Files are told apart by name, size and a sample of their bytes; files in a folder by name
        and size only, because reading them all would take too long.
        """
        text = json.dumps([self.data.kind_name(), self.split, self.source.identity(), self.data.content()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This host's training batches from `start_step` on, endless: shuffled and augmented."""
        steps = grain.MapDataset.range(start_step, sys.maxsize)
        return self._read(steps, TrainingBatch(self.source, self.data, self._rows))

    def evaluation_batches(self) -> Iterator[Batch]:
        """One pass in order, without augmentation; every host makes the same number of batches.

        The last batch is filled up with rows that are not "valid". Neither is a record that cannot be
        decoded: every record that can counts once.
        """
        steps = grain.MapDataset.range(-(-len(self.source) // self.data.batch_size))
        return self._read(steps, EvaluationBatch(self.source, self.data, self._rows))

    def encoding_batches(self, augmentations: int, first: int, last: int) -> Iterator[Batch]:
        """Steps `first` to `last` (exclusive) of a pass in order over all versions of every record
        (0: one without augmentation), with all rows on this host and "caption", the texts.

        The last batch is filled up with rows that are not "valid". A record that cannot be decoded is
        replaced as in training; "index" says by which.
        """
        steps = grain.MapDataset.range(first, last)
        return self._read(steps, EncodingBatch(self.source, self.data, augmentations))

    def _read(
        self, steps: grain.MapDataset, make: Callable[[int], tuple[Batch, Failures]]
    ) -> Iterator[Batch]:
        workers, prefetch = self.data.workers, self.data.prefetch
        # Workers are parallel already: threads inside them would only multiply the batches in flight.
        threads = 0 if workers else prefetch
        dataset = steps.map(make).to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=threads))
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain reads flags, which are parsed only inside `absl.app.run`
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
            )
        iterator = iter(dataset)
        try:
            for batch, failures in iterator:
                self._count(len(batch["index"]), failures)
                self._check_labels(batch)
                # Out of the shared memory in which a worker hands it over, so that this is free at once.
                yield {name: np.array(value) for name, value in batch.items()} if workers else batch
        finally:
            iterator.close()

    def _check_labels(self, batch: Batch) -> None:
        """For sources whose labels are known as they are read alone."""
        if not self._classes or "label" not in batch:
            return
        wrong = batch["label"] >= self._classes
        if wrong.any():
            raise ValueError(
                f"record {batch['index'][wrong][0]} of {self.data.describe()} has the label "
                f"{batch['label'][wrong][0]}, but there are {self._classes} classes. Raise "
                "their number in the model, or leave such records out."
            )

    def _count(self, rows: int, failures: Failures) -> None:
        self.counters["records_seen"] += rows
        self.counters["records_bad"] += len(failures)
        for key, reason in failures:
            if key not in self._bad_keys:
                self._bad_keys.append(key)
                _log.warning("record %s cannot be decoded and is replaced (%s)", key, reason)
        seen, bad = self.counters["records_seen"], self.counters["records_bad"]
        if bad > self.data.max_bad_fraction * max(seen, _FEW_RECORDS):
            keys = ", ".join(self._bad_keys[:_KEYS_SHOWN]) + (", ..." if self._bad_keys[_KEYS_SHOWN:] else "")
            raise BadDataError(
                f"{bad} of {seen} records cannot be decoded, more than max_bad_fraction="
                f"{self.data.max_bad_fraction:g} allows: {keys}. "
                "Repair or remove them, or raise --data.max-bad-fraction."
            )
