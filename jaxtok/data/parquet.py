"""Parquet files with encoded images, as the Hugging Face hub stores them."""

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.dataset import Split
from jaxtok.data.errors import BadRecord, import_extra
from jaxtok.data.files import Offsets, digests, find_files
from jaxtok.data.image_data import ImageFiles
from jaxtok.data.image_sources import ImageSource

# A record costs the decompression of its row group, so recent groups are kept, up to this size per process.
# Shuffled reading of much larger files is faster from ArrayRecord (`python -m jaxtok.data.pack`).
_CACHE_BYTES = 512 * 2**20


class Parquet(ImageSource):
    """Rows of parquet files. Only the row groups that are asked for are read."""

    def __init__(self, path: str, channels: int, image: str, label: str, caption: str):
        """Reads the footers of all files.

        Args:
          path: A file, a folder or a glob pattern.
          channels: 1 or 3.
          image: Column of encoded images: binary, or a struct with a `bytes` field.
          label: Column of integers, or "" for none.
          caption: Column of strings, or "" for none.

        Raises:
          ValueError: No file, not parquet, no rows, or a column that is missing or of another type.
        """
        self.channels = channels
        self.image, self.label, self.caption = image, label, caption
        self.files = find_files(path, (".parquet",))
        self._groups: list[tuple[str, int, int]] = []  # file, group, the group's first row in the file
        counts = []
        for file in self.files:
            self._check_columns(file)
            metadata, first = _metadata(file), 0
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group, first))
                counts.append(metadata.row_group(group).num_rows)
                first += counts[-1]
        if not sum(counts):
            raise ValueError(f"the parquet files at {path} have no rows. Check data.path.")
        self._offsets = Offsets(counts)

    def _check_columns(self, file: str) -> None:
        types = import_extra("pyarrow", "data").types
        schema = _metadata(file).schema.to_arrow_schema()

        def is_image(kind: Any) -> bool:
            if types.is_struct(kind):
                return kind.get_field_index("bytes") >= 0 and is_image(kind.field("bytes").type)
            return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

        def is_text(kind: Any) -> bool:
            if types.is_dictionary(kind):
                return is_text(kind.value_type)
            return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

        def is_label(kind: Any) -> bool:
            return types.is_integer(kind.value_type if types.is_dictionary(kind) else kind)

        for field, column, fits, expected in (
            ("image_column", self.image, is_image, "binary or a struct with bytes"),
            ("label_column", self.label, is_label, "integers"),
            ("caption_column", self.caption, is_text, "strings"),
        ):
            if not column and field != "image_column":
                continue
            none = "" if field == "image_column" else ', or "" for none'
            if column not in schema.names:
                raise ValueError(
                    f"data.{field} is {column!r}, but {file} has the columns {', '.join(schema.names)}. "
                    f"Set --data.{field.replace('_', '-')} to one of them{none}."
                )
            if (count := schema.names.count(column)) > 1:
                raise ValueError(
                    f"{file} has {count} columns named {column!r} (data.{field}), so it does not say which "
                    "one is meant. Write it again with names of their own."
                )
            if not fits(kind := schema.field(column).type):
                raise ValueError(
                    f"data.{field} is {column!r}, which holds {kind} in {file}, but must hold {expected}. "
                    f"Set --data.{field.replace('_', '-')} to another of {', '.join(schema.names)}{none}."
                )

    def __len__(self) -> int:
        return len(self._offsets)

    def raw(self, index: int) -> dict[str, Any]:
        place, row = self._offsets.locate(index)
        file, group, first = self._groups[place]
        columns = tuple(name for name in (self.image, self.label, self.caption) if name)
        key = f"{Path(file).name} row {first + row}"
        try:
            table = _row_groups.read(file, group, columns)
            values = {name: table.column(name)[row].as_py() for name in columns}
        except (OSError, ValueError) as error:  # damaged pages; captions that are not UTF-8
            raise BadRecord(key, f"{type(error).__name__}: {error}") from error
        image = values[self.image]
        image = image["bytes"] if isinstance(image, dict) else image
        if image is None:
            raise BadRecord(key, "no image bytes")
        label = values.get(self.label)
        return {
            "image": image,
            "label": -1 if label is None else label,
            "caption": values.get(self.caption) or "",
            "key": key,
        }

    def labels(self) -> np.ndarray | None:
        if not self.label:
            return np.full(len(self), -1)
        parquet = import_extra("pyarrow.parquet", "data")
        read = lambda file: parquet.read_table(file, columns=[self.label]).column(self.label).to_pylist()
        return np.array(
            [-1 if label is None else label for file in self.files for label in read(file)], np.int64
        )

    def identity(self) -> Any:
        return [digests(self.files), self.image, self.label, self.caption]


@functools.lru_cache(maxsize=1024)
def _metadata(file: str) -> Any:
    pyarrow = import_extra("pyarrow", "data")
    parquet = import_extra("pyarrow.parquet", "data")
    try:
        return parquet.read_metadata(file)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file} is not readable parquet: {error}. Remove or repair it.") from error


class _RowGroups:
    """The most recently used row groups of this process. A global, so that it does not travel to workers."""

    def __init__(self, capacity: int):
        self.capacity, self.size = capacity, 0
        self.tables: OrderedDict[tuple[str, int, tuple[str, ...]], Any] = OrderedDict()
        self.lock = threading.Lock()  # also keeps two threads from reading the same group

    def read(self, file: str, group: int, columns: tuple[str, ...]) -> Any:
        key = (file, group, columns)
        with self.lock:
            if key in self.tables:
                self.tables.move_to_end(key)
                return self.tables[key]
            parquet = import_extra("pyarrow.parquet", "data")
            with parquet.ParquetFile(file, metadata=_metadata(file)) as opened:
                table = opened.read_row_group(group, columns=list(columns))
            self.tables[key] = table
            self.size += table.nbytes
            while self.size > self.capacity and len(self.tables) > 1:
                self.size -= self.tables.popitem(last=False)[1].nbytes
            return table


_row_groups = _RowGroups(_CACHE_BYTES)


@dataclass(frozen=True, kw_only=True)
class ParquetImages(ImageFiles):
    """Parquet files with encoded images; see `Parquet`."""

    kind = "parquet"
    image_column: str = "image"
    """Column of encoded images, plain binary or a struct with a `bytes` field."""
    label_column: str = "label"
    """Column of integer classes. Empty for none."""
    caption_column: str = "caption"
    """Column of captions. Empty for none."""

    def files(self, path: str, split: Split) -> ImageSource:
        """See `ImageFiles.files`."""
        self.refuse_shared_files()
        return Parquet(path, self.channels, self.image_column, self.label_column, self.caption_column)
