"""From the name in the configuration to an open source."""

import os

from jaxtok.data.arrayrecord import ArrayRecord
from jaxtok.data.arrays import NumpyFile
from jaxtok.data.config import EMBEDDED, Data, Split, validate
from jaxtok.data.embedded import Photos, digits
from jaxtok.data.files import find_files
from jaxtok.data.folder import Folder
from jaxtok.data.parquet import Parquet
from jaxtok.data.records import Source, Subset
from jaxtok.data.shapes import Shapes
from jaxtok.data.tokens import Tokens
from jaxtok.data.webdataset import WebDataset


def open_source(data: Data, split: Split) -> Source:
    """Opens the records of one split.

    Embedded data has an evaluation split of its own. Files have `data.eval_path`, or else `data.held_out`
    records of `data.path`: always the same ones, whatever the seed.

    Args:
      data: The configuration.
      split: "train" or "eval".

    Returns:
      A source; `source[i]` is `{"image": uint8 [H, W, C], "label": int, "caption": str, "key": str}`, and
      for shapes also "scene", a JSON string; tokens have "codes" [N, Q] in place of "image".

    Raises:
      ValueError: The configuration, a path or a column is wrong, or there are no records.
    """
    validate(data)
    if split not in ("train", "eval"):
        raise ValueError(f'split is {split!r}, but must be "train" or "eval".')
    if data.source in EMBEDDED:
        return _open_embedded(data, split)
    source = _open_files(data, data.eval_path if split == "eval" and data.eval_path else data.path, split)
    source.white, source.max_pixels = float(data.white), data.max_pixels
    return source if data.eval_path else _held_out(source, data, split)


def _open_embedded(data: Data, split: Split) -> Source:
    if data.source == "digits":
        return digits(split, data.channels)
    if data.source == "photos":
        return Photos(split, data.channels)
    return Shapes(split, max(data.image_sizes))


def _open_files(data: Data, path: str, split: Split) -> Source:
    if data.source == "folder":
        without = data.eval_path if split == "train" else ""
        return Folder(path, data.channels, training=data.path, without=without)
    if data.eval_path:
        _refuse_shared_files(data)
    if data.source == "parquet":
        return Parquet(path, data.channels, data.image_column, data.label_column, data.caption_column)
    if data.source == "webdataset":
        return WebDataset(path, data.channels)
    if data.source == "arrayrecord":
        return ArrayRecord(path, data.channels)
    if data.source == "tokens":
        return Tokens(path)
    return NumpyFile(path, data.channels)


def _refuse_shared_files(data: Data) -> None:
    """Evaluation records must not be training records.

    Raises:
      ValueError: `data.path` and `data.eval_path` have a file in common.
    """
    suffixes = ("",)
    train, evaluation = (
        {os.path.realpath(file) for file in find_files(path, suffixes)}
        for path in (data.path, data.eval_path)
    )
    if shared := sorted(train & evaluation):
        raise ValueError(
            f"{shared[0]} is in data.path and in data.eval_path ({len(shared)} such files), so the run "
            "would be evaluated on what it trains on. Leave it out of one, or set data.held_out alone."
        )


def _held_out(source: Source, data: Data, split: Split) -> Source:
    total = len(source)
    count = int(data.held_out) if data.held_out >= 1 else round(data.held_out * total)
    if data.held_out > 0:
        count = max(count, 1)
    if count >= total:
        raise ValueError(
            f"data.held_out={data.held_out:g} reserves {count} of {total} records in {data.path}, "
            "which leaves none to train on. Lower it, or give data.eval_path and more data."
        )
    if split == "train":
        return Subset(source, count, total - count) if count else source
    if not count:
        raise ValueError("there is no evaluation split: data.held_out is 0. Raise it or set data.eval_path.")
    return Subset(source, 0, count)
