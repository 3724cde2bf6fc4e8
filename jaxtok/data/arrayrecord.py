"""ArrayRecord shards: the fastest format for shuffled reading. `python -m jaxtok.data.pack` writes them.

A record is a msgpack map: "image" bytes of an encoded image (JPEG, PNG, ...), "label" int (-1 unknown),
"caption" str, "key" str (where the record came from). `classes.json` beside the shards lists the class
names by label, when they are known.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtok.data.dataset import Split
from jaxtok.data.errors import BadRecord, import_extra
from jaxtok.data.files import digests, find_files
from jaxtok.data.image_data import ImageFiles
from jaxtok.data.image_files import encode_png
from jaxtok.data.image_sources import ImageSource
from jaxtok.data.records import Source
from jaxtok.json_files import read_json

SUFFIX = ".arrayrecord"
_CLASSES = "classes.json"


class ArrayRecord(ImageSource):
    """Records of ArrayRecord shards."""

    def __init__(self, path: str, channels: int):
        """Opens the shards.

        Args:
          path: A file, a folder or a glob pattern.
          channels: 1 or 3.

        Raises:
          ValueError: No shard, a shard that cannot be read, or no records.
        """
        self.channels = channels
        self.files = find_files(path, (SUFFIX,))
        self._count = len(open_shards(tuple(self.files)))
        if not self._count:
            raise ValueError(f"the shards at {path} hold no records. Check data.path.")
        classes = Path(self.files[0]).with_name(_CLASSES)
        self.classes = _read_classes(classes) if classes.exists() else ()

    def __len__(self) -> int:
        return self._count

    def raw(self, index: int) -> dict[str, Any]:
        try:
            record = import_extra("msgpack", "data").unpackb(open_shards(tuple(self.files))[index])
            return {name: record[name] for name in ("image", "label", "caption", "key")}
        except (ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
            raise BadRecord(f"record {index}", f"{type(error).__name__}: {error}") from error

    def identity(self) -> Any:
        return [digests(self.files), self.classes]


def _read_classes(file: Path) -> tuple[str, ...]:
    names = read_json(file, "Pack the data again.")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file} holds no list of class names. Pack the data again.")
    return tuple(names)


@functools.lru_cache(maxsize=4)  # by files and not in the source, so that a worker process opens its own
def open_shards(files: tuple[str, ...]) -> Any:
    """The records of ArrayRecord files, by number over all of them.

    Raises:
      ValueError: a file cannot be read.
    """
    module = import_extra("array_record.python.array_record_data_source", "data")
    try:
        return module.ArrayRecordDataSource(list(files))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{_unreadable(files)} cannot be read: {error}. Write it again.") from error


def _unreadable(files: Sequence[str]) -> str:
    """The first file that cannot be opened by itself; the error of all together does not say which."""
    module = import_extra("array_record.python.array_record_data_source", "data")
    for file in files:
        try:
            module.ArrayRecordDataSource([file])
        except (ValueError, RuntimeError):
            return file
    return f"the shards beside {files[0]}"


def write_shards(source: Source, folder: Path, records_per_shard: int) -> Iterable[Path]:
    """Writes all records of a source; images that are stored encoded keep their bytes, others become PNG.

    Args:
      source: The records.
      folder: Where the shards go; made when missing.
      records_per_shard: Records in each but the last.

    Yields:
      Each shard when it is complete.

    Raises:
      ValueError: `records_per_shard` is below 1, or the folder already has shards.
    """
    if records_per_shard < 1:
        raise ValueError(
            f"records_per_shard is {records_per_shard}, but must be at least 1. Use for example 10000."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob(f"*{SUFFIX}")):
        raise ValueError(f"{folder} already holds {SUFFIX} files. Choose another folder or remove them.")
    module = import_extra("array_record.python.array_record_module", "data")
    pack = import_extra("msgpack", "data").packb
    if source.classes:
        (folder / _CLASSES).write_text(json.dumps(source.classes))
    shards = -(-len(source) // records_per_shard)
    for shard in range(shards):
        file = folder / f"records-{shard:05d}-of-{shards:05d}{SUFFIX}"
        writer = module.ArrayRecordWriter(str(file), "group_size:1")  # one record per chunk: random access
        for index in range(shard * records_per_shard, min((shard + 1) * records_per_shard, len(source))):
            record = source.raw(index)
            if not isinstance(record["image"], bytes):
                record["image"] = encode_png(source[index]["image"])
            writer.write(pack({name: record[name] for name in ("image", "label", "caption", "key")}))
        writer.close()
        yield file


@dataclass(frozen=True, kw_only=True)
class ArrayRecordImages(ImageFiles):
    """ArrayRecord shards of images; see `ArrayRecord`."""

    kind = "arrayrecord"

    def files(self, path: str, split: Split) -> ImageSource:
        """See `ImageFiles.files`."""
        self.refuse_shared_files()
        return ArrayRecord(path, self.channels)
