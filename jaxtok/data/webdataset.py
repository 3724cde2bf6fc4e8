"""WebDataset shards: tar files in which the members of one sample have the same key."""

import collections
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.captions import caption_of, decode_caption
from jaxtok.data.dataset import Split
from jaxtok.data.errors import BadRecord, notice
from jaxtok.data.files import digests, find_files
from jaxtok.data.image_data import ImageFiles
from jaxtok.data.image_files import IMAGE_SUFFIXES
from jaxtok.data.image_sources import ImageSource

_FIELDS = ("image", "txt", "cls", "json")
_BEYOND = -2  # in place of the size of a member that is larger than its shard
_Members = dict[str, tuple[str, int, int]]  # field -> (member's name, offset, size)


class WebDataset(ImageSource):
    """Samples of tar shards in random access: the headers are scanned once, and samples are read by offset.

    Per sample: an image (`.jpg`, `.png`, `.webp`, ...), and optionally `.txt` (caption), `.cls` (integer
    label) and `.json` (an object with "caption" and "label", which count where `.txt` and `.cls` are
    missing). The key of a member is its name up to the first dot; the members of a sample need not be
    neighbours. Where a key has no member such as `001.png`, one such as `001.v2.png` is its image.
    """

    def __init__(self, path: str, channels: int):
        """Scans the headers of all shards.

        Args:
          path: A tar file, a folder or a glob pattern. Compressed tar files have no random access.
          channels: 1 or 3.

        Raises:
          ValueError: No shard, a shard that is not a plain tar file, two members for one field of a sample,
            or no sample with an image.
        """
        self.channels = channels
        self.files = find_files(path, (".tar",))
        self._keys: list[str] = []
        shards: list[int] = []
        extents: list[list[tuple[int, int]]] = []
        for number, file in enumerate(self.files):
            for key, members in _samples(file).items():
                self._keys.append(key)
                shards.append(number)
                extents.append([members.get(field, ("", 0, -1))[1:] for field in _FIELDS])
        if not shards:
            raise ValueError(
                f"the tar files at {path} hold no images. Members are named like 000.jpg, 000.txt."
            )
        self._shards = np.array(shards, np.int32)
        self._extents = np.array(
            extents, np.int64
        )  # [samples, fields, (offset, size)]; size -1: no such member
        self._notice_other_json()

    def _notice_other_json(self) -> None:
        """Says of the first `.json` if nothing in it is read: captions may go by another name there."""
        described = np.flatnonzero(self._extents[:, _FIELDS.index("json"), 1] > 0)
        if not described.size:
            return
        try:
            key, parts = self._read(int(described[0]), ("json",))
            about = _about(parts, key)
        except BadRecord:
            return  # said when it is read
        if about and not {"caption", "label"} & about.keys():
            notice(
                f"{key}: of .json members only 'caption' and 'label' are read, and this one holds "
                f"{', '.join(sorted(about))[:200]}. Rename the field, or write .txt members."
            )

    def __len__(self) -> int:
        return len(self._shards)

    def _read(self, index: int, fields: tuple[str, ...]) -> tuple[str, dict[str, bytes]]:
        """The record's name, and the bytes of those of `fields` that it has."""
        file = self.files[self._shards[index]]
        key = f"{Path(file).name} {self._keys[index]}"
        parts = {}
        try:
            with open(file, "rb") as opened:
                for field, (offset, size) in zip(_FIELDS, self._extents[index].tolist()):
                    if size == _BEYOND:
                        raise BadRecord(key, f"its {field} is a sparse member, or larger than the shard")
                    if size >= 0 and field in fields:
                        opened.seek(offset)
                        parts[field] = opened.read(size)
        except OSError as error:
            raise BadRecord(key, str(error)) from error
        return key, parts

    def raw(self, index: int) -> dict[str, Any]:
        key, parts = self._read(index, _FIELDS)
        about = _about(parts, key)
        caption = (
            decode_caption(parts["txt"], key) if "txt" in parts else caption_of(about.get("caption"), key)
        )
        label = parts["cls"].strip() if "cls" in parts else about.get("label", -1)
        return {"image": parts["image"], "label": label, "caption": caption, "key": key}

    def identity(self) -> Any:
        return digests(self.files)


def _about(parts: dict[str, bytes], key: str) -> dict[str, Any]:
    try:
        about = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise BadRecord(key, f"its JSON cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(about, dict):
        raise BadRecord(key, f"its JSON is a {type(about).__name__}, but must be an object")
    return about


def _samples(file: str) -> dict[str, _Members]:
    """Samples with an image in one shard, in the order of their first members.

    Raises:
      ValueError: The shard cannot be read, or two members stand for the same field of a sample.
    """
    samples: dict[str, _Members] = {}
    inexact: dict[str, list[tuple[str, str, int, int]]] = {}  # members such as 001.v2.png
    ignored: collections.Counter[str] = collections.Counter()
    for name, offset, size in _members(file):
        folder, _, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        if not dot or not stem:
            ignored[base if not dot else f".{suffix}"] += 1
            continue
        key, field = f"{folder}/{stem}" if folder else stem, _field(suffix)
        members = samples.setdefault(key, {})
        if field in members:
            raise _ambiguous(file, key, members[field][0], name)
        if field:
            members[field] = (name, offset, size)
        elif last := _field(suffix.rpartition(".")[2]):
            inexact.setdefault(key, []).append((last, name, offset, size))
        else:
            ignored[f".{suffix}"] += 1
    for key, candidates in inexact.items():
        exact = set(samples[key])
        for field, name, offset, size in candidates:
            if field in exact:
                ignored[f".{Path(name).name.partition('.')[2]}"] += 1
            elif field in samples[key]:
                raise _ambiguous(file, key, samples[key][field][0], name)
            else:
                samples[key][field] = (name, offset, size)
    found = {key: members for key, members in samples.items() if "image" in members}
    if alone := len(samples) - len(found):
        notice(f"{alone} keys in {file} have no image and are skipped")
    if ignored:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(8))
        notice(f"{ignored.total()} members in {file} are not read: {listed}")
    return found


def _field(suffix: str) -> str:
    """What a member with this ending is in its sample; "" for nothing that is read."""
    suffix = suffix.lower()
    if f".{suffix}" in IMAGE_SUFFIXES:
        return "image"
    return suffix if suffix in _FIELDS and suffix != "image" else ""


def _ambiguous(file: str, key: str, first: str, second: str) -> ValueError:
    return ValueError(
        f"{file} has two members for one part of the sample {key!r}: {first} and {second}. Give each sample "
        "a name of its own up to the first dot, and one image, .txt, .cls and .json."
    )


def _members(file: str) -> list[tuple[str, int, int]]:
    """(name, offset, size) of the visible files in a shard.

    Raises:
      ValueError: It is no plain tar file, or was cut short.
    """
    found = []
    try:
        total = os.path.getsize(file)
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.isfile() and not Path(member.name).name.startswith("._"):  # of a Mac's file system
                    beyond = member.issparse() or member.offset_data + member.size > total
                    found.append((member.name, member.offset_data, _BEYOND if beyond else member.size))
            end = archive.offset  # of the last member
        # A shard that was cut between two members reads well, but without the two zero blocks of the end.
        with open(file, "rb") as opened:
            opened.seek(end)
            if opened.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it has no end mark, so it was cut short after a member")
    except (OSError, tarfile.TarError) as error:
        raise ValueError(
            f"{file} cannot be read as an uncompressed tar file: {error}. Repair or remove it."
        ) from error
    return found


@dataclass(frozen=True, kw_only=True)
class WebDatasetImages(ImageFiles):
    """Tar shards of images; see `WebDataset`."""

    kind = "webdataset"

    def files(self, path: str, split: Split) -> ImageSource:
        """See `ImageFiles.files`."""
        self.refuse_shared_files()
        return WebDataset(path, self.channels)
