"""WebDataset shards: tar files in which the members of one sample are neighbours with the same key."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.errors import BadRecord
from jaxtok.data.files import digests, find_files
from jaxtok.data.images import IMAGE_SUFFIXES
from jaxtok.data.records import Source

_FIELDS = ("image", "txt", "cls", "json")


class WebDataset(Source):
    """Samples of tar shards in random access: the headers are scanned once, and samples are read by offset.

    Per sample: an image (`.jpg`, `.png`, `.webp`, ...), and optionally `.txt` (caption), `.cls` (integer
    label) and `.json` (an object with "caption" and "label", which count where `.txt` and `.cls` are
    missing).
    """

    def __init__(self, path: str, channels: int):
        """Scans the headers of all shards.

        Args:
          path: A tar file, a folder or a glob pattern. Compressed tar files have no random access.
          channels: 1 or 3.

        Raises:
          ValueError: No shard, a shard that is not a plain tar file, or no sample with an image.
        """
        self.channels = channels
        self.files = find_files(path, (".tar",))
        self._keys: list[str] = []
        shards: list[int] = []
        extents: list[list[tuple[int, int]]] = []
        for number, file in enumerate(self.files):
            for key, members in _scan(file):
                self._keys.append(key)
                shards.append(number)
                extents.append([members.get(field, (0, -1)) for field in _FIELDS])
        if not shards:
            raise ValueError(
                f"the tar files at {path} hold no images. Members are named like 000.jpg, 000.txt."
            )
        self._shards = np.array(shards, np.int32)
        self._extents = np.array(
            extents, np.int64
        )  # [samples, fields, (offset, size)]; size -1: no such member

    def __len__(self) -> int:
        return len(self._shards)

    def raw(self, index: int) -> dict[str, Any]:
        file = self.files[self._shards[index]]
        key = f"{Path(file).name} {self._keys[index]}"
        try:
            with open(file, "rb") as opened:
                parts = {}
                for field, (offset, size) in zip(_FIELDS, self._extents[index].tolist()):
                    if size >= 0:
                        opened.seek(offset)
                        parts[field] = opened.read(size)
            about = json.loads(parts.get("json", b"{}"))
            label = int(parts.get("cls", about.get("label", -1)))
            caption = (
                parts["txt"].decode("utf-8", "replace").strip()
                if "txt" in parts
                else about.get("caption", "")
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BadRecord(key, f"{type(error).__name__}: {error}") from error
        return {"image": parts["image"], "label": label, "caption": str(caption), "key": key}

    def identity(self) -> Any:
        return digests(self.files)


def _scan(file: str) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Samples with an image in one shard: (key, field -> (offset, size))."""
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not member.isfile() or not dot or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                suffix = suffix.lower()
                field = "image" if f".{suffix}" in IMAGE_SUFFIXES else suffix
                if not samples or samples[-1][0] != key:
                    samples.append((key, {}))
                if field in _FIELDS:
                    samples[-1][1][field] = (member.offset_data, member.size)
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
    return [sample for sample in samples if "image" in sample[1]]
