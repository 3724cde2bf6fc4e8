"""Token files: the packed codes of a data set in ArrayRecord shards, and a manifest that says what they are.

A folder holds `manifest.json` and, per shard, two files. `tokens-00003.arrayrecord` has nothing but packed
codes, `CodeSpace.pack` of one entry after the other, in records of at least 64 KiB.
`about-00003.arrayrecord` has labels, captions and record numbers as msgpack maps of a few entries each. A
file of 64 MiB is 0.3 % larger than its codes; ArrayRecord itself takes about 130 KB per file, which shows in
small ones.

An entry is one version of one record: entry `e` is crop `e // images` of record `e % images`.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.aliases import current_fields
from jaxtok.codes import CodeSpace
from jaxtok.data.arrayrecord import SUFFIX, open_shards
from jaxtok.data.errors import BadRecord, import_extra
from jaxtok.json_files import check_object, read_object

MANIFEST = "manifest.json"
LEAST_RECORD = 2**16  # bytes: smaller records cost more in bookkeeping than they hold
_ABOUT_ROWS = 64  # entries per record of labels and captions, so that reading one does not read thousands
_KINDS = ("tokens", "about")
_VERSION = 2


_AGAIN = "Encode the images again with the verb `encode`."
_FIELDS = {
    "levels": list, "tokens": int, "tokenizer": str, "data": str, "source": dict, "split": str, "images": int,
    "augmentations": int, "block": int, "shard_size": int, "version": int,
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What token files hold.

    Attributes:
      levels: alphabet of a token, see `CodeSpace`.
      tokens: N, tokens per entry.
      tokenizer: hash of the tokenizer's variables.
      data: fingerprint of the images, see `Pipeline.fingerprint`; captions do not count.
      source: the configuration that made the images, JSON.
      split: "train" or "eval".
      images: records of the split.
      augmentations: augmented versions of each; 0 for one without augmentation.
      block: entries per record of the token files.
      shard_size: entries per file, a multiple of `block`.
      lengths: whether entries have lengths: how many of their tokens are real.
    """

    levels: tuple[int, ...]
    tokens: int
    tokenizer: str
    data: str
    source: Mapping[str, Any]
    split: str
    images: int
    augmentations: int
    block: int
    shard_size: int
    version: int = _VERSION
    lengths: bool = False

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        return CodeSpace(self.levels)

    @property
    def bytes_per_entry(self) -> int:
        """Size of the packed codes of an entry."""
        return -(-self.tokens * self.space.packed_bits // 8)

    @property
    def entries(self) -> int:
        """Number of entries over all shards."""
        return self.images * max(self.augmentations, 1)

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.entries // self.shard_size)

    def rows(self, shard: int) -> range:
        """Entries of one shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.entries))

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`.

        Raises:
          ValueError: the folder has one that says something else.
        """
        if (folder / MANIFEST).exists():
            stored, own = _read_json(folder), json.loads(json.dumps(dataclasses.asdict(self)))
            stored.setdefault("lengths", False)
            # How the images were configured beyond what their fingerprint says matters to augmentation only.
            changed = [name for name in own if name != "source" and stored.get(name) != own[name]]
            if self.augmentations and not changed:
                drawn_by = ("seed", "batch_size")
                changed = [name for name in drawn_by if stored["source"].get(name) != own["source"].get(name)]
            if changed:
                raise ValueError(
                    f"{folder} holds tokens with another {', '.join(changed)}; choose another folder or "
                    "remove it"
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{MANIFEST}.partial"
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of token files.

    Raises:
      ValueError: there is none, or it is of another version of the format.
    """
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} holds no tokens (no {MANIFEST}); make some with the verb `encode`")
    stored = _read_json(folder)
    if stored.get("version") != _VERSION:
        raise ValueError(
            f"the tokens in {folder} have format {stored.get('version', 1)}, this version reads {_VERSION}; "
            "encode them again"
        )
    path = folder / MANIFEST
    check_object(stored, _FIELDS, str(path), _AGAIN)
    if unknown := sorted(stored.keys() - _FIELDS - {"lengths"}):
        raise ValueError(f"{path} has unknown fields {unknown}. {_AGAIN}")
    levels = stored["levels"]
    if not levels or not all(type(level) is int and 2 <= level < 2**31 for level in levels):
        raise ValueError(f"{path}: levels is {levels!r:.60}, but must list numbers from 2 on. {_AGAIN}")
    for name, least in {"tokens": 1, "images": 1, "augmentations": 0, "block": 1, "shard_size": 1}.items():
        if not least <= stored[name] < 2**48:
            raise ValueError(f"{path}: {name} is {stored[name]}, but must be at least {least}. {_AGAIN}")
    if not isinstance(stored.get("lengths", False), bool):
        raise ValueError(f"{path}: lengths is {stored['lengths']!r:.60}, but must be true or false. {_AGAIN}")
    manifest = Manifest(**{**stored, "levels": tuple(levels)})
    if manifest.shard_size % manifest.block:
        raise ValueError(
            f"{path}: shard_size {manifest.shard_size} is no multiple of block {manifest.block}. {_AGAIN}"
        )
    there = len(list(folder.glob(f"tokens-*{SUFFIX}")))
    if there > manifest.shards:
        raise ValueError(
            f"{path} speaks of {manifest.shards} shards, and {there} are in the folder. {_AGAIN}"
        )
    return manifest


def _read_json(folder: Path) -> dict[str, Any]:
    return current_fields("Manifest", read_object(folder / MANIFEST, {}, _AGAIN))


def shard_path(folder: Path, kind: str, shard: int) -> Path:
    """File of one shard; `kind` is "tokens" or "about"."""
    return folder / f"{kind}-{shard:05d}{SUFFIX}"


def has_shard(folder: Path, shard: int) -> bool:
    """Whether a shard is complete: the token file gets its name last."""
    return shard_path(folder, "tokens", shard).exists()


def write_shard(folder: Path, manifest: Manifest, shard: int, batches: Iterator[Mapping[str, Any]]) -> None:
    """Writes one shard; a shard that was begun and not finished leaves only files that end in `.partial`.

    Args:
      folder: with the manifest.
      manifest: of the whole.
      shard: its number.
      batches: "packed" uint8 [n, bytes], "label" and "index" integers [n], "caption" texts [n], and "length"
        integers [n] where the manifest has lengths, in order; all entries of the shard together.

    Raises:
      ValueError: the batches have another number of entries.
    """
    # Codes are dense already; compressing them again would only cost time at every read.
    packed, texts = "group_size:1,uncompressed", "group_size:1"
    with _Writer(folder, "tokens", shard, packed) as tokens, _Writer(folder, "about", shard, texts) as about:
        waiting, count = b"", 0
        record = manifest.block * manifest.bytes_per_entry
        columns = ("label", "index", "caption", *(("length",) if manifest.lengths else ()))
        rows: dict[str, list[Any]] = {name: [] for name in columns}
        for batch in batches:
            count += len(batch["packed"])
            waiting += batch["packed"].tobytes()
            while len(waiting) >= record:
                tokens.write(waiting[:record])
                waiting = waiting[record:]
            for name, values in rows.items():
                values += np.asarray(batch[name]).tolist()
            while len(rows["label"]) >= _ABOUT_ROWS:
                about.write_map({name: values[:_ABOUT_ROWS] for name, values in rows.items()})
                rows = {name: values[_ABOUT_ROWS:] for name, values in rows.items()}
        if count != len(manifest.rows(shard)):
            raise ValueError(f"shard {shard} got {count} entries, it has {len(manifest.rows(shard))}")
        if waiting:
            tokens.write(waiting)
        if rows["label"]:
            about.write_map(rows)
    about.finish()
    tokens.finish()


class _Writer:
    """An ArrayRecord file that gets its name when it is complete."""

    def __init__(self, folder: Path, kind: str, shard: int, options: str):
        self.path = shard_path(folder, kind, shard)
        self.partial = self.path.with_suffix(".partial")
        module = import_extra("array_record.python.array_record_module", "data")
        self._writer = module.ArrayRecordWriter(str(self.partial), options)
        self.write = self._writer.write

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.close()

    def write_map(self, value: Mapping[str, Any]) -> None:
        """Writes a msgpack map."""
        self.write(import_extra("msgpack", "data").packb(value))

    def finish(self) -> None:
        """Gives the file its name."""
        self.partial.replace(self.path)


class TokenShards:
    """Complete token files, by entry. Cheap to pickle: a worker process opens the files itself.

    Attributes:
      folder: where they lie.
      manifest: what they hold.
    """

    def __init__(self, folder: str | Path):
        """Opens a folder.

        Raises:
          ValueError: no manifest, or shards are missing or cut short.
        """
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        count, names = self.manifest.shards, {path.name for path in self.folder.iterdir()}
        first = next(n for n in itertools.count() if shard_path(self.folder, "tokens", n).name not in names)
        if first < count:  # a manifest may speak of more shards than can be counted
            there = sum(name.startswith("tokens-") and name.endswith(SUFFIX) for name in names)
            raise ValueError(
                f"encoding into {self.folder} has not finished: {count - there} of {count} shards are "
                f"missing, the first is {first}. Run the same command again."
            )
        shards = range(count)
        self._files = {
            kind: tuple(str(shard_path(self.folder, kind, shard)) for shard in shards) for kind in _KINDS
        }
        for kind, size in zip(_KINDS, (self.manifest.block, _ABOUT_ROWS)):
            # Reads the end of each file, which a cut one lacks.
            records = len(open_shards(self.files(kind)))
            if records != sum(-(-len(self.manifest.rows(shard)) // size) for shard in shards):
                raise self._other_entries()
        last = self.manifest.rows(count - 1)[-1]
        rows = 1 + last % self.manifest.shard_size % self.manifest.block
        try:
            block, _ = self._read("tokens", last, self.manifest.block)
            whole = len(block) == rows * self.manifest.bytes_per_entry
        except BadRecord:  # damage is told where it is read
            whole = True
        if not whole:
            raise self._other_entries()

    def _other_entries(self) -> ValueError:
        return ValueError(
            f"{self.folder / MANIFEST} speaks of {self.manifest.entries} entries, and the shards hold "
            f"another number. {_AGAIN}"
        )

    def __len__(self) -> int:
        return self.manifest.entries

    def files(self, kind: str) -> tuple[str, ...]:
        """All files of a kind, "tokens" or "about"."""
        return self._files[kind]

    def packed(self, entry: int) -> np.ndarray:
        """Packed codes of one entry, uint8 [bytes]; `CodeSpace.unpack` reads many at once.

        Raises:
          BadRecord: the file is damaged.
        """
        block, row = self._read("tokens", entry, self.manifest.block)
        size = self.manifest.bytes_per_entry
        return block[row * size : (row + 1) * size]

    def codes(self, entries: Sequence[int] | range) -> np.ndarray:
        """Codes of entries, [n, N, Q] in `code_dtype`.

        Raises:
          BadRecord: the file is damaged.
        """
        packed = np.stack([self.packed(entry) for entry in entries])
        return self.manifest.space.unpack(packed, self.manifest.tokens)

    def about(self, entry: int) -> dict[str, Any]:
        """ "label" int, "caption" str, "index" int (number of the record) of one entry, and its "length" int
        where the manifest has lengths.

        Raises:
          BadRecord: the file is damaged.
        """
        block, row = self._read("about", entry, _ABOUT_ROWS)
        return {name: values[row] for name, values in block.items()}

    def lengths(self, entries: Sequence[int] | range) -> np.ndarray | None:
        """Real tokens of entries, int64 [n]; None where all are."""
        if not self.manifest.lengths:
            return None
        return np.array([self.about(entry)["length"] for entry in entries], np.int64)

    def shard(self, number: int) -> dict[str, np.ndarray]:
        """A whole shard: "codes" [n, N, Q], "label", "index" int64 [n] and "caption" [n], and "length" int64
        [n] where the manifest has lengths.
        """
        rows = self.manifest.rows(number)
        about = [self.about(entry) for entry in rows]
        columns = {name: np.array([row[name] for row in about]) for name in about[0]}
        return {"codes": self.codes(rows), **columns}

    def _read(self, kind: str, entry: int, size: int) -> tuple[Any, int]:
        """The record of a file that holds an entry, decoded, and the entry's row among its `size` rows."""
        shard, within = divmod(entry, self.manifest.shard_size)
        # Every file but the last has as many records as the first.
        number = shard * -(-self.manifest.shard_size // size) + within // size
        try:
            return (_bytes if kind == "tokens" else _map)(self.files(kind), number), within % size
        except (ValueError, RuntimeError, IndexError) as error:
            path = shard_path(self.folder, kind, shard)
            raise BadRecord(f"entry {entry} in {path}", f"{type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=512)  # 32 MiB; by files, so that a worker process opens its own
def _bytes(files: tuple[str, ...], number: int) -> np.ndarray:
    return np.frombuffer(open_shards(files)[number], np.uint8)


@functools.lru_cache(maxsize=4096)
def _map(files: tuple[str, ...], number: int) -> dict[str, list[Any]]:
    return import_extra("msgpack", "data").unpackb(open_shards(files)[number])
