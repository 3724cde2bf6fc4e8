"""Finding the files of a source, with plain errors, and telling them apart."""

import bisect
import glob
import hashlib
import os
from pathlib import Path

import numpy as np


def find_files(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of the suffixes, sorted by name; hidden ones are skipped.

    Args:
      path: A file, a folder (searched recursively) or a glob pattern.
      suffixes: Lower case, with the dot; compared without regard to case.

    Raises:
      ValueError: The path does not exist or cannot be read, or holds no such file.
    """
    wanted = " or ".join(suffixes)
    place = Path(path).expanduser()
    if place.is_file():
        if not place.name.lower().endswith(suffixes):
            raise ValueError(f"{path} is not a {wanted} file. Set data.source to the format of the file.")
        found = [place]
    elif place.is_dir():
        found = list(_walk(place, suffixes))
    elif matches := glob.glob(str(place), recursive=True):
        found = [Path(match) for match in matches if match.lower().endswith(suffixes)]
    else:
        raise ValueError(f"{path} does not exist. Set data.path to a file, a folder or a glob pattern.")
    if not found:
        raise ValueError(f"{path} holds no {wanted} file. Check data.path and data.source.")
    for file in (found[0], found[-1]):
        if not os.access(file, os.R_OK):
            raise ValueError(f"{file} may not be read by this user. Change its permissions.")
    return sorted(found)


def _walk(place: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be listed: {error.strerror}. Check its permissions.")

    found = []
    for folder, folders, names in os.walk(place, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = (name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        found += [Path(folder, name) for name in kept]
    return found


def names_and_sizes(files: list[Path]) -> list[tuple[str, int]]:
    """What identifies files: their names below their common folder, and their sizes in bytes."""
    root = os.path.commonpath([file.parent for file in files])
    return [(os.path.relpath(file, root), file.stat().st_size) for file in files]


def digests(files: list[Path]) -> list[tuple[str, int, str]]:
    """Like `names_and_sizes`, with a hash of the bytes: formats that pad their files keep sizes when data change.

    Of files above 1 MiB the hash covers 16 blocks of 64 KiB, evenly spaced from the first to the last byte.
    """
    return [(*about, _digest(file, about[1])) for file, about in zip(files, names_and_sizes(files))]


def _digest(file: Path, size: int) -> str:
    block, count = 2**16, 16
    starts = np.linspace(0, max(size - block, 0), count).astype(int) if size > block * count else [0]
    hashed = hashlib.sha256()
    with open(file, "rb") as opened:
        for start in starts:
            opened.seek(int(start))
            hashed.update(opened.read(block if len(starts) > 1 else size))
    return hashed.hexdigest()[:16]


class Offsets:
    """Numbers the records of consecutive groups: record -> (group, row in the group)."""

    def __init__(self, counts: list[int]):
        self.ends = np.cumsum(np.array(counts, np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        group = bisect.bisect_right(self.ends, index)
        return group, index - int(self.ends[group - 1]) if group else index
