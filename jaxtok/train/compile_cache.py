"""Entries of JAX's compilation cache that a kill has cut short.

JAX writes an entry in place and never writes it again, so whoever meets a cut one warns and compiles that
program at every start. Entries that are newer than the last look are read once; a cut one is removed, and JAX
writes it anew.
"""

import importlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MARK = "jaxtok-checked"  # its time is that of the last look
_ZSTD = b"\x28\xb5\x2f\xfd"


def remove_cut_entries(folder: str | os.PathLike) -> list[str]:
    """Removes entries that cannot be unpacked; the names of those.

    A folder that is not there or not on a local file system is left alone, and so is what this user may not
    read. An entry that another process is writing at this moment may be taken for a cut one: it is then
    compiled again.
    """
    path = Path(folder)
    if "://" in str(folder) or not path.is_dir():
        return []
    mark, removed = path / _MARK, []
    try:
        since = mark.stat().st_mtime_ns if mark.exists() else 0
        mark.touch()
        for entry in path.glob("*-cache"):
            if entry.stat().st_mtime_ns >= since and not _is_whole(entry.read_bytes()):
                entry.unlink(missing_ok=True)
                removed.append(entry.name)
    except OSError:  # another process is at it, or the folder cannot be written
        pass
    return removed


def _is_whole(entry: bytes) -> bool:
    if not entry.startswith(_ZSTD):
        return _unpacks(zlib.decompress, entry)
    for name in ("compression.zstd", "zstandard"):
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        unpack = getattr(module, "decompress", None) or module.ZstdDecompressor().decompress
        return _unpacks(unpack, entry)
    return True  # JAX could not read it either


def _unpacks(unpack: Callable[[bytes], Any], entry: bytes) -> bool:
    try:
        unpack(entry)
    except Exception:  # each library has an error of its own
        return False
    return True
