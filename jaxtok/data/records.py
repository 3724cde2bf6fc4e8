"""What a source of records is, and what a record that cannot be decoded is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxtok.data.captions import caption_of, label_of
from jaxtok.data.errors import BadRecord
from jaxtok.data.images import MAX_PIXELS, decode_image, to_channels
from jaxtok.data.order import permuted

SPLIT_SEED = 20_240_613  # fixed, so that no run trains on what another run of the same data holds out


class Source(ABC):
    """Records by number. Cheap to pickle: worker processes get a copy and open their own files.

    Attributes:
      channels: Channels of the decoded images, 1 or 3.
      content: What a record holds: "image", or "codes" of token files.
      classes: Names of the classes by label; empty when the source does not know them.
      white, max_pixels: See `decode_image`.
    """

    channels: int
    white: float = 0.0
    max_pixels: int = MAX_PIXELS
    content: Literal["image", "codes"] = "image"
    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def raw(self, index: int) -> dict[str, Any]:
        """Record `index` as stored.

        Returns:
          "image": encoded bytes, or uint8 [H, W] or [H, W, C]; "label": int, -1 unknown; "caption": str;
          "key": str, the record's name.
        """

    @abstractmethod
    def identity(self) -> Any:
        """JSON value that changes when the records do. No absolute paths: copies of a data set are equal."""

    def labels(self) -> np.ndarray | None:
        """int64 [len(self)], the label of every record, -1 for none; None where all records must be read."""
        return None

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index` with its image, if it has one, decoded to uint8 [H, W, channels].

        Raises:
          BadRecord: The record cannot be read or decoded.
        """
        record = self.raw(index)
        if self.content != "image":
            return record
        image, key = record["image"], record["key"]
        about = {"label": label_of(record["label"], key), "caption": caption_of(record["caption"], key)}
        if isinstance(image, bytes):
            image = decode_image(image, self.channels, key, white=self.white, max_pixels=self.max_pixels)
        if not isinstance(image, np.ndarray):
            raise BadRecord(key, f"its image is a {type(image).__name__}, but must be the bytes of a file")
        return record | about | {"image": to_channels(image, self.channels)}

    def blank(self, size: int) -> np.ndarray:
        """What stands in for a record in the padding of a batch: a black image of `size` pixels."""
        return np.zeros((size, size, self.channels), np.uint8)

    def stack(self, contents: Sequence[np.ndarray]) -> np.ndarray:
        """What records hold, as one array with a row each."""
        return np.stack(contents)


class Subset(Source):
    """Records `start .. start + count` of a fixed permutation of another source (for held-out records)."""

    def __init__(self, source: Source, start: int, count: int):
        self.source, self.start, self.count = source, start, count
        self.channels, self.classes, self.content = source.channels, source.classes, source.content
        self.white, self.max_pixels = source.white, source.max_pixels

    def __len__(self) -> int:
        return self.count

    def blank(self, size: int) -> np.ndarray:
        return self.source.blank(size)

    def stack(self, contents: Sequence[np.ndarray]) -> np.ndarray:
        return self.source.stack(contents)

    def raw(self, index: int) -> dict[str, Any]:
        return self.source.raw(self._record(index))

    def _record(self, index: int) -> int:
        return permuted(self.start + index, len(self.source), SPLIT_SEED)

    def labels(self) -> np.ndarray | None:
        labels = self.source.labels()
        return None if labels is None else labels[[self._record(index) for index in range(self.count)]]

    def identity(self) -> Any:
        return [self.source.identity(), self.start, self.count]


class ArraySource(Source):
    """Records in memory: images uint8 [N, H, W, C], labels [N], one caption per class."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        captions: tuple[str, ...],
        *,
        name: str,
        channels: int,
        classes: tuple[str, ...],
    ):
        self.images, self._labels, self.captions = images, labels, captions
        self.name, self.channels, self.classes = name, channels, classes

    def __len__(self) -> int:
        return len(self.images)

    def labels(self) -> np.ndarray:
        return np.asarray(self._labels, np.int64)

    def raw(self, index: int) -> dict[str, Any]:
        label = int(self._labels[index])
        return {
            "image": self.images[index],
            "label": label,
            "caption": self.captions[label],
            "key": f"{self.name}/{index}",
        }

    def identity(self) -> Any:
        return [self.name, len(self)]
