"""Finding the files of a source, with plain errors, and telling them apart."""

import bisect
import glob
import hashlib
import os
from typing import Any, NamedTuple

import numpy as np

from jaxtok.data.errors import notice


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
            raise ValueError(
                f"{path} is not a {wanted} file. Choose the kind that reads it, such as --data:parquet."
            )
        found = [place]
    elif os.path.isdir(place):
        found = [file.path for file in walk(place) if file.path.lower().endswith(suffixes)]
    elif matches := glob.glob(place, recursive=True):
        found = [match for match in matches if match.lower().endswith(suffixes)]
    else:
        raise ValueError(f"{path} does not exist. Set data.path to a file, a folder or a glob pattern.")
    if not found:
        raise ValueError(f"{path} holds no {wanted} file. Check data.path and the kind of data.")
    found.sort()
    check_readable(found)
    return found


def check_readable(files: list[str]) -> None:
    """Looks at the first and the last file; a link that leads nowhere is no matter of permissions.

    Raises:
      ValueError: This user may not read it.
    """
    for file in (files[0], files[-1]):
        if os.path.exists(file) and not os.access(file, os.R_OK):
            raise ValueError(f"{file} may not be read by this user. Change its permissions.")


class FoundFile(NamedTuple):
    """A file below a folder.

    Attributes:
      path: where it was found.
      size: in bytes; -1 of a link that leads nowhere.
      identity: what is the same under every name of the file: its device and number.
    """

    path: str
    size: int
    identity: tuple[int, int] | str


def walk(place: str) -> list[FoundFile]:
    """Every visible file below a folder once, sorted by path; links are followed, loops are not.

    A file with several names (links, hard or symbolic) has the first that is no symbolic link.

    Raises:
      ValueError: A folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be listed: {error.strerror}. Check its permissions.")

    found, seen_folders = [], set()
    for folder, folders, names in os.walk(place, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        identity = _identity(folder, os.stat(folder))
        if identity in seen_folders:
            folders.clear()
            continue
        seen_folders.add(identity)
        for name in names:
            if not name.startswith("."):
                found.append(_found(os.path.join(folder, name)))
    found.sort(key=lambda file: (os.path.islink(file.path), file.path))
    first: dict[Any, FoundFile] = {}
    for file in found:
        first.setdefault(file.identity, file)
    if len(first) < len(found):
        other = next(file for file in found if first[file.identity] is not file)
        notice(
            f"{len(found) - len(first)} names below {place} are links to files that are there already, such "
            f"as {other.path} to {first[other.identity].path}: each file is read once"
        )
    return sorted(first.values())


def _found(path: str) -> FoundFile:
    try:
        status = os.stat(path)
    except OSError:  # a link that leads nowhere: whoever reads it says so
        return FoundFile(path, -1, path)
    return FoundFile(path, status.st_size, _identity(path, status))


def _identity(path: str, status: os.stat_result) -> tuple[int, int] | str:
    """Device and number of a file; its resolved path where the file system has no numbers."""
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


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
