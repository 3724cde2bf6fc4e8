"""What a source of records is, and what a record that cannot be decoded is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxtok.data.images import decode_image, to_channels
from jaxtok.data.order import permuted

SPLIT_SEED = 20_240_613  # fixed, so that no run trains on what another run of the same data holds out


class Source(ABC):
    """Records by number. Cheap to pickle: worker processes get a copy and open their own files.

    Attributes:
      channels: Channels of the decoded images, 1 or 3.
      content: What a record holds: "image", or "codes" of token files.
      classes: Names of the classes by label; empty when the source does not know them.
    """

    channels: int
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index` with its image, if it has one, decoded to uint8 [H, W, channels].

        Raises:
          BadRecord: The record cannot be read or decoded.
        """
        record = self.raw(index)
        if self.content != "image":
            return record
        image = record["image"]
        if isinstance(image, bytes):
            image = decode_image(image, self.channels, record["key"])
        return record | {"image": to_channels(image, self.channels)}

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

    def __len__(self) -> int:
        return self.count

    def blank(self, size: int) -> np.ndarray:
        return self.source.blank(size)

    def stack(self, contents: Sequence[np.ndarray]) -> np.ndarray:
        return self.source.stack(contents)

    def raw(self, index: int) -> dict[str, Any]:
        return self.source.raw(permuted(self.start + index, len(self.source), SPLIT_SEED))

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
        self.images, self.labels, self.captions = images, labels, captions
        self.name, self.channels, self.classes = name, channels, classes

    def __len__(self) -> int:
        return len(self.images)

    def raw(self, index: int) -> dict[str, Any]:
        label = int(self.labels[index])
        return {
            "image": self.images[index],
            "label": label,
            "caption": self.captions[label],
            "key": f"{self.name}/{index}",
        }

    def identity(self) -> Any:
        return [self.name, len(self)]
