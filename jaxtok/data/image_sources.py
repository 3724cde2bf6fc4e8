"""Sources of images: records whose "image" is decoded to uint8 [H, W, channels]."""

from typing import Any

import numpy as np

from jaxtok.data.captions import caption_of, label_of
from jaxtok.data.errors import BadRecord
from jaxtok.data.image_files import MAX_PIXELS, decode_image, to_channels
from jaxtok.data.records import Source


class ImageSource(Source):
    """Images by number. A stored record has "image", encoded bytes or uint8 [H, W] or [H, W, C]; "label",
    int, -1 unknown; "caption", str; and "key".

    Attributes:
      channels: Of the decoded images, 1 or 3.
      white, max_pixels: See `decode_image`.
    """

    channels: int
    white: float = 0.0
    max_pixels: int = MAX_PIXELS

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record `index` with its image decoded to uint8 [H, W, channels].

        Raises:
          BadRecord: The record cannot be read or decoded.
        """
        record = self.raw(index)
        image, key = record["image"], record["key"]
        about = {"label": label_of(record["label"], key), "caption": caption_of(record["caption"], key)}
        if isinstance(image, bytes):
            image = decode_image(image, self.channels, key, white=self.white, max_pixels=self.max_pixels)
        if not isinstance(image, np.ndarray):
            raise BadRecord(key, f"its image is a {type(image).__name__}, but must be the bytes of a file")
        return record | about | {"image": to_channels(image, self.channels)}


class ImageArrays(ImageSource):
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
