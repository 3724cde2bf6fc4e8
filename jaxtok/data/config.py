"""What is read, how a record becomes an image, and how batches are made: one frozen dataclass."""

from dataclasses import dataclass
from typing import Literal, get_args

SourceName = Literal[
    "digits", "photos", "shapes", "folder", "parquet", "webdataset", "arrayrecord", "numpy", "tokens"
]
Split = Literal["train", "eval"]
Crop = Literal["none", "center", "random", "random_resized"]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]

EMBEDDED = ("digits", "photos", "shapes")


@dataclass(frozen=True)
class Data:
    """Where images come from and what happens to them.

    Training shuffles and augments; evaluation reads in order, with centre crops in place of random ones.
    """

    source: SourceName = "digits"
    """Embedded data (digits, photos, shapes) or the format of the files at `path`; "tokens" are what the verb
    `encode` writes, codes in place of images."""
    path: str = ""
    """A file, a folder or a glob pattern with the records. Unused by embedded data."""
    eval_path: str = ""
    """Files of the evaluation split. Empty: `held_out` records of `path` are reserved for it."""
    held_out: int | float = 0.05
    """Records of `path` reserved for evaluation: a fraction below 1, a number from 1 on, 0 for none."""
    image_sizes: tuple[int, ...] = (16,)
    """Side of the square images in pixels. With several, each training step draws one of them."""
    channels: Literal[1, 3] = 1
    """1 for grey, 3 for RGB."""
    batch_size: int = 64
    """Images per step over all hosts together."""
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
    image_column: str = "image"
    """parquet: column of encoded images, plain binary or a struct with a `bytes` field."""
    label_column: str = "label"
    """parquet: column of integer classes. Empty for none."""
    caption_column: str = "caption"
    """parquet: column of captions. Empty for none."""
    white: float = 0.0
    """What white is in grey images of more than 8 bits. 0: 65535 of 16 bits, 1 of floats."""
    max_pixels: int = 89_478_485
    """Larger images are bad records; checked before they are decoded."""
    seed: int = 0
    """Order of the records, augmentation and choice of resolution. Never which records are held out."""
    workers: int = 0
    """Processes that prepare batches. 0 uses threads of this process, which is right for small images."""
    prefetch: int = 2
    """Batches prepared ahead, per worker process. 0 prepares each when it is asked for."""
    max_bad_fraction: float = 0.01
    """A run stops above this fraction of undecodable records; below it they are replaced and logged."""


def validate(data: Data) -> None:
    """Checks everything that can be checked without opening files.

    Raises:
      ValueError: Names the field, its value, the constraint and the remedy.
    """

    def require(condition: bool, field: str, constraint: str, remedy: str) -> None:
        if not condition:
            raise ValueError(f"data.{field} is {getattr(data, field)!r}, but {constraint}. {remedy}")

    def choice(field: str, names: tuple[object, ...]) -> None:
        require(getattr(data, field) in names, field, f"must be one of {names}", "Pick one of these.")

    choice("source", get_args(SourceName))
    choice("crop", get_args(Crop))
    choice("resize", get_args(Filter))
    choice("channels", (1, 3))
    require(
        data.source != "shapes" or data.channels == 3,
        "channels",
        "the captions of 'shapes' name colours",
        "Use 3.",
    )
    embedded = data.source in EMBEDDED
    require(embedded or bool(data.path), "path", f"source {data.source!r} reads files", "Set --data.path.")
    require(
        not embedded or not (data.path or data.eval_path),
        "path" if data.path else "eval_path",
        f"source {data.source!r} is embedded and reads no files",
        "Set --data.source to the format of the files.",
    )
    require(
        bool(data.image_sizes) and all(size >= 1 for size in data.image_sizes),
        "image_sizes",
        "needs at least one side of at least 1 pixel",
        "Use for example (32,), or (24, 32, 40) for multi-scale training.",
    )
    require(data.batch_size >= 1, "batch_size", "must be at least 1", "It counts images over all hosts.")
    require(data.text_length >= 0, "text_length", "must be at least 0", "Use 0 for no captions.")
    low, high = data.crop_scale
    require(0 < low <= high <= 1, "crop_scale", "needs 0 < smallest <= largest <= 1", "Use (0.8, 1.0).")
    low, high = data.crop_ratio
    require(0 < low <= high, "crop_ratio", "needs 0 < smallest <= largest", "Use (0.75, 1.3333333).")
    require(
        data.held_out >= 0 and (data.held_out < 1 or data.held_out == int(data.held_out)),
        "held_out",
        "must be a fraction in [0, 1) or a whole number of records",
        "Use 0.05, or 1000.",
    )
    require(data.white >= 0, "white", "must be at least 0", "Use 4095 for 12 bits, 0 for the usual values.")
    require(data.max_pixels >= 1, "max_pixels", "must be at least 1", "Use 89478485.")
    require(data.seed >= 0, "seed", "must be at least 0", "Any non-negative integer will do.")
    require(data.workers >= 0, "workers", "must be at least 0", "Use 0 for threads.")
    require(data.prefetch >= 0, "prefetch", "must be at least 0", "Use 0 for none.")
    require(
        data.workers == 0 or data.prefetch >= 1,
        "prefetch",
        f"each of the {data.workers} workers must prepare at least one batch ahead",
        "Use 1 or more, or workers=0.",
    )
    require(0 <= data.max_bad_fraction < 1, "max_bad_fraction", "must be in [0, 1)", "Use 0 to allow none.")
