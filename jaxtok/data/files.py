"""Finding the files of a source, with plain errors, and telling them apart."""

import bisect
import glob
import hashlib
import os

import numpy as np


def find_files(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files with one of the suffixes, sorted by name; hidden ones are skipped.

    Args:
      path: A file, a folder (searched recursively) or a glob pattern.
      suffixes: Lower case, with the dot; compared without regard to case.

    Raises:
      ValueError: The path does not exist or cannot be read, or holds no such file.
    """
    wanted = " or ".join(suffixes)
    place = os.path.expanduser(path)
    if os.path.isfile(place):
        if not place.lower().endswith(suffixes):
            raise ValueError(f"{path} is not a {wanted} file. Set data.source to the format of the file.")
        found = [place]
    elif os.path.isdir(place):
        found = _walk(place, suffixes)
    elif matches := glob.glob(place, recursive=True):
        found = [match for match in matches if match.lower().endswith(suffixes)]
    else:
        raise ValueError(f"{path} does not exist. Set data.path to a file, a folder or a glob pattern.")
    if not found:
        raise ValueError(f"{path} holds no {wanted} file. Check data.path and data.source.")
    found.sort()
    for file in (found[0], found[-1]):
        if not os.access(file, os.R_OK):
            raise ValueError(f"{file} may not be read by this user. Change its permissions.")
    return found


def _walk(place: str, suffixes: tuple[str, ...]) -> list[str]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be listed: {error.strerror}. Check its permissions.")

    found = []
    for folder, folders, names in os.walk(place, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = (name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        found += [os.path.join(folder, name) for name in kept]
    return found


def digests(files: list[str]) -> list[tuple[str, int, str]]:
    """What identifies files: names below their common folder, sizes in bytes, and hashes of their bytes.

    Sizes alone do not: several formats pad their files. Of a file above 1 MiB the hash covers 16 blocks of
    64 KiB, evenly spaced from the first to the last byte.
    """
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    sizes = [os.path.getsize(file) for file in files]
    return [(os.path.relpath(file, root), size, _digest(file, size)) for file, size in zip(files, sizes)]


def _digest(file: str, size: int) -> str:
    block, count = 2**16, 16
    starts = np.linspace(0, size - block, count).astype(int) if size > block * count else [0]
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
