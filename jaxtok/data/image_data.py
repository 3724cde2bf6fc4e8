"""Data sets of images: what an example is, whatever the images come from."""

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from jaxtok.data.dataset import Dataset, Example, Field, Split, check_split
from jaxtok.data.files import find_files
from jaxtok.data.image_files import MAX_PIXELS
from jaxtok.data.image_sources import ImageSource
from jaxtok.data.order import choice_at
from jaxtok.data.records import Source, held_out
from jaxtok.data.transforms import Crop, Filter, augment, prepare
from jaxtok.nn.caption_ids import caption_ids

# What changes the images and captions of a batch.
_CONTENT = (
    *("image_sizes", "channels", "crop", "crop_scale", "crop_ratio", "flip", "resize"),
    *("text_length", "text_model"),
)


@dataclass(frozen=True, kw_only=True)
class ImageData(Dataset):
    """Images with labels and captions.

    An example has "image" uint8 [S, S, C], "label" int32, -1 unknown, and with `text_length` "text" int32 [T]
    and "text_mask" bool [T]. Training shuffles and augments; evaluation reads in order, with centre crops in
    place of random ones.
    """

    image_sizes: tuple[int, ...] = (16,)
    """Side of the square images in pixels. With several, each training step draws one of them."""
    channels: Literal[1, 3] = 1
    """1 for grey, 3 for RGB."""
    text_length: int = 0
    """Tokens kept of a caption. 0 leaves captions out of the batches."""
    text_model: str = ""
    """Folder of a Hugging Face language model whose tokenizer makes the tokens. Empty: tokens are bytes."""
    crop: Crop = "center"
    """none stretches the image; center and random take a largest square; random_resized varies its area."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """random_resized: smallest and largest area of a crop as a fraction of the image's."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333333)
    """random_resized: smallest and largest width / height of a crop."""
    flip: bool = False
    """Mirror half of the training images left to right. Not for digits or captions that say left or right."""
    resize: Filter = "bicubic"
    """Filter of every resize (antialiased, as in Pillow). Metrics depend on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, names in (("crop", get_args(Crop)), ("resize", get_args(Filter)), ("channels", (1, 3))):
            self.require(
                getattr(self, field) in names, field, f"must be one of {names}", "Pick one of these."
            )
        self.require(
            bool(self.image_sizes) and all(size >= 1 for size in self.image_sizes),
            "image_sizes",
            "needs at least one side of at least 1 pixel",
            "Use for example (32,), or (24, 32, 40) for multi-scale training.",
        )
        self.require(self.text_length >= 0, "text_length", "must be at least 0", "Use 0 for no captions.")
        low, high = self.crop_scale
        self.require(
            0 < low <= high <= 1, "crop_scale", "needs 0 < smallest <= largest <= 1", "Use (0.8, 1.0)."
        )
        low, high = self.crop_ratio
        self.require(0 < low <= high, "crop_ratio", "needs 0 < smallest <= largest", "Use (0.75, 1.3333333).")

    def fields(self) -> Mapping[str, Field]:
        """See `Dataset.fields`."""
        return self._fields(max(self.image_sizes))

    def shapes(self) -> Sequence[Mapping[str, Field]]:
        """See `Dataset.shapes`: a set of shapes per resolution."""
        return [self._fields(side) for side in sorted(set(self.image_sizes), reverse=True)]

    def _fields(self, side: int) -> Mapping[str, Field]:
        fields = {
            "image": Field((side, side, self.channels), np.uint8),
            "label": Field((), np.int32, blank=-1),
        }
        if self.text_length:
            fields["text"] = Field((self.text_length,), np.int32, pad="length")
        return fields

    def example(self, record: Mapping[str, Any], step: int, rng: np.random.Generator | None) -> Example:
        """See `Dataset.example`: at the resolution of the step, or without augmentation at the largest."""
        side = max(self.image_sizes) if rng is None else choice_at(step, self.image_sizes, self.seed)
        crop = {name: getattr(self, name) for name in ("crop", "resize")}
        if rng is None:
            image = prepare(record["image"], side, **crop)
        else:
            ranges = {"crop_scale": self.crop_scale, "crop_ratio": self.crop_ratio, "flip": self.flip}
            image = augment(record["image"], side, rng, **crop, **ranges)
        return {"image": image, "label": np.array(record["label"], np.int32), **self._text(record["caption"])}

    def _text(self, caption: str) -> Example:
        if not self.text_length:
            return {}
        ids, mask = caption_ids([caption], self.text_length, self.text_model)
        return {"text": ids[0], "text_mask": mask[0]}

    def blank(self, beside: Example | None = None) -> Example:
        """See `Dataset.blank`: a black image without a caption."""
        return {**super().blank(beside), **self._text("")}

    def content(self) -> Any:
        """See `Dataset.content`."""
        content = {name: getattr(self, name) for name in _CONTENT}
        white = getattr(self, "white", 0)
        return {**content, "white": white} if white else content  # came later: without it, as before

    def for_tokens(self) -> "ImageData":
        """See `Dataset.for_tokens`."""
        return dataclasses.replace(self, text_length=0, text_model="")


@dataclass(frozen=True, kw_only=True)
class ImageFiles(ImageData):
    """Images in files."""

    path: str = ""
    """A file, a folder or a glob pattern with the records."""
    eval_path: str = ""
    """Files of the evaluation split. Empty: `held_out` records of `path` are reserved for it."""
    held_out: int | float = 0.05
    """Records of `path` reserved for evaluation: a fraction below 1, a number from 1 on, 0 for none."""
    white: float = 0.0
    """What white is in grey images of more than 8 bits. 0: 65535 of 16 bits, 1 of floats."""
    max_pixels: int = MAX_PIXELS
    """Larger images are bad records; checked before they are decoded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.held_out >= 0 and (self.held_out < 1 or self.held_out == int(self.held_out)),
            "held_out",
            "must be a fraction in [0, 1) or a whole number of records",
            "Use 0.05, or 1000.",
        )
        self.require(
            self.white >= 0, "white", "must be at least 0", "Use 4095 for 12 bits, 0 for the usual values."
        )
        self.require(self.max_pixels >= 1, "max_pixels", "must be at least 1", "Use 89478485.")

    def open(self, split: Split) -> Source:
        """See `Dataset.open`: the evaluation files, or else always the same held-out records."""
        check_split(split)
        self.require(bool(self.path), "path", f"{self.kind_name()!r} reads files", "Set --data.path.")
        source = self.files(self.eval_path if split == "eval" and self.eval_path else self.path, split)
        source.white, source.max_pixels = float(self.white), self.max_pixels
        return source if self.eval_path else held_out(source, self.held_out, split, self.path)

    @abstractmethod
    def files(self, path: str, split: Split) -> ImageSource:
        """All records at a path."""

    def refuse_shared_files(self) -> None:
        """Evaluation records must not be training records.

        Raises:
          ValueError: `path` and `eval_path` have a file in common.
        """
        if not self.eval_path:
            return
        train, evaluation = (
            {os.path.realpath(file) for file in find_files(path, ("",))}
            for path in (self.path, self.eval_path)
        )
        if shared := sorted(train & evaluation):
            raise ValueError(
                f"{shared[0]} is in data.path and in data.eval_path ({len(shared)} such files), so the run "
                "would be evaluated on what it trains on. Leave it out of one, or set data.held_out alone."
            )
