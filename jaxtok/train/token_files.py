"""Data sets as tokens: packed bits in shards beside a manifest that says what they are."""

import hashlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtok.codes import CodeSpace
from jaxtok.data.config import Data, Split
from jaxtok.data.pipeline import Pipeline
from jaxtok.param_trees import flatten
from jaxtok.systems.image.image_system import ImageSystem
from jaxtok.train.config import to_json
from jaxtok.train.fingerprint import fingerprint


def tokenizer_hash(system: ImageSystem) -> str:
    """Hash of a tokenizer's variables; tokens of another one mean something else."""
    leaves = flatten(dict(system.variables["tokenizer"]))
    text = json.dumps({path: fingerprint(np.asarray(leaf)) for path, leaf in sorted(leaves.items())})
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def encode_data(
    system: ImageSystem, data: Data, folder: Path, split: Split = "train", shard_size: int = 65_536
) -> dict[str, Any]:
    """Encodes every record of a split, in order and without augmentation.

    Writes `tokens-00000.npy`, ... (uint8 [n, ceil(N * packed_bits / 8)]), `labels-00000.npy`,
    `index-00000.npy` (record numbers) and `manifest.json`.

    Args:
      system: the trained system.
      data: what to encode.
      folder: where to write.
      split: "train" or "eval".
      shard_size: images per shard.

    Returns:
      The manifest.

    Raises:
      ValueError: the folder holds tokens of another tokenizer or of other data.
    """
    pipeline = Pipeline(data, split)
    model = system.model
    manifest = {
        "levels": list(model.space.levels),
        "tokens": model.tokens,
        "bytes_per_image": -(-model.tokens * model.space.packed_bits // 8),
        "tokenizer": tokenizer_hash(system),
        "data": pipeline.fingerprint,
        "source": to_json(data),
        "split": split,
        "shard_size": shard_size,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    if path.exists():
        stored = json.loads(path.read_text())
        changed = [
            name
            for name in ("levels", "tokens", "tokenizer", "data", "split", "shard_size")
            if stored[name] != manifest[name]
        ]
        if changed:
            raise ValueError(
                f"{folder} holds tokens with another {', '.join(changed)}; choose another folder or remove it"
            )
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    shards = images = 0
    for columns in _shards(_encoded(system, pipeline), shard_size):
        for name, rows in columns.items():
            target = folder / f"{name}-{shards:05d}.npy"
            with open(target.with_suffix(".partial"), "wb") as file:
                np.save(file, rows)
            target.with_suffix(".partial").rename(target)
        shards, images = shards + 1, images + len(columns["index"])
    manifest |= {"images": images, "shards": shards}
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def read_tokens(folder: Path) -> tuple[dict[str, Any], Generator[dict[str, np.ndarray], None, None]]:
    """The manifest, and per shard "codes" int32 [n, N, Q], "labels" and "index".

    Raises:
      FileNotFoundError: no manifest.
      ValueError: encoding has not finished.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no tokens (no manifest.json); make some with the verb `encode`"
        )
    manifest = json.loads(path.read_text())
    if "shards" not in manifest:
        raise ValueError(f"encoding into {folder} has not finished; run the same command again")
    space = CodeSpace(tuple(manifest["levels"]))

    def shards() -> Generator[dict[str, np.ndarray], None, None]:
        for number in range(manifest["shards"]):
            columns = {
                name: np.load(folder / f"{name}-{number:05d}.npy") for name in ("tokens", "labels", "index")
            }
            yield {"codes": space.unpack(columns.pop("tokens"), manifest["tokens"]), **columns}

    return manifest, shards()


def _encoded(system: ImageSystem, pipeline: Pipeline) -> Iterator[dict[str, np.ndarray]]:
    for batch in pipeline.evaluation_batches():
        keep = batch["mask"]
        codes = np.asarray(jax.device_get(system.encode(batch["image"]).codes))[keep]
        yield {
            "tokens": system.model.space.pack(codes),
            "labels": batch["label"][keep],
            "index": batch["index"][keep],
        }


def _shards(batches: Iterator[dict[str, np.ndarray]], size: int) -> Iterator[dict[str, np.ndarray]]:
    waiting: dict[str, np.ndarray] = {}
    for batch in batches:
        waiting = {
            name: np.concatenate([waiting[name], rows]) if waiting else rows for name, rows in batch.items()
        }
        while len(waiting["index"]) >= size:
            yield {name: rows[:size] for name, rows in waiting.items()}
            waiting = {name: rows[size:] for name, rows in waiting.items()}
    if waiting and len(waiting["index"]):
        yield waiting
