"""Data sets as tokens: encoding them, and training on them in place of images.

`jaxtok.data.token_shards` is the format.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxtok.codes import CodeSpace
from jaxtok.config_files import to_json
from jaxtok.data.batching import Batch
from jaxtok.data.dataset import Dataset, Split
from jaxtok.data.pipeline import Pipeline
from jaxtok.data.token_shards import LEAST_RECORD, Manifest, has_shard, read_manifest, write_shard
from jaxtok.data.tokens import TokenFiles
from jaxtok.param_trees import flatten
from jaxtok.run.lock import shard_lock
from jaxtok.run.trained import Trained
from jaxtok.train.fingerprint import fingerprint
from jaxtok.train.stage import StageCodes, Variables

SHARD_BYTES = 2**26  # 64 MiB of codes per file, by default


def tokenizer_hash(variables: Variables) -> str:
    """Hash of a tokenizer's variables, wherever they live; tokens of another one mean something else."""
    leaves = sorted(flatten(dict(variables)).items())
    text = json.dumps({path: fingerprint(leaf) for path, leaf in leaves})
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def content_fingerprint(data: Dataset, split: Split) -> str:
    """Fingerprint of a split, whatever is done with its captions."""
    return Pipeline(data.for_tokens(), split).fingerprint


def encode_data(
    trained: Trained,
    data: Dataset,
    folder: Path,
    split: Split = "train",
    *,
    augmentations: int = 0,
    shard_size: int = 0,
    part: int = 0,
    parts: int = 1,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Encodes every record of a split, in order. Complete shards of an earlier call stay; the rest is made.

    Args:
      trained: the trained system.
      data: what to encode.
      folder: where to write.
      split: "train" or "eval".
      augmentations: versions of each record, as training would make them; 0 for one without.
      shard_size: entries per file, rounded up to whole records of the file; 0 for 64 MiB of codes.
      part, parts: makes only the shards whose number is `part` modulo `parts`, so that many machines share
        the work.
      on_progress: called with a line after each shard.

    Returns:
      The manifest.

    Raises:
      ValueError: the folder holds tokens of another tokenizer or of other data, or a number is out of range.
      RuntimeError: another process is writing one of the shards.
    """
    if augmentations < 0 or shard_size < 0 or not 0 <= part < parts:
        raise ValueError(
            f"augmentations={augmentations} and shard_size={shard_size} must be at least 0, part={part} from "
            f"0 to parts - 1 = {parts - 1}"
        )
    if not trained.system.has_tokenizer:
        raise ValueError(
            f"{type(trained.system).__name__} has no tokenizer, so there is nothing to encode with"
        )
    # The images of a batch share a resolution that is drawn per batch, so a file holds whole batches.
    data = data.for_tokens()
    pipeline = Pipeline(data, split)
    space, tokens = trained.system.space, trained.system.tokens
    if space is None:
        raise ValueError("the latents of this system are continuous: token files hold codes")
    size = -(-tokens * space.packed_bits // 8)
    block = data.batch_size * math.ceil(LEAST_RECORD / (size * data.batch_size))
    wanted = shard_size or max(SHARD_BYTES // size, 1)
    manifest = Manifest(
        levels=space.levels,
        tokens=tokens,
        tokenizer=tokenizer_hash(trained.variables["tokenizer"]),
        data=pipeline.fingerprint,
        source=to_json(data),
        split=split,
        images=len(pipeline),
        augmentations=augmentations,
        block=block,
        shard_size=block * math.ceil(wanted / block),
        lengths=data.fields()[trained.modality.key].pad == "length",
    )
    manifest.write(folder)
    own = range(part, manifest.shards, parts)
    for shard in own:
        with shard_lock(folder, shard):
            if has_shard(folder, shard):
                on_progress(f"shard {shard} of {manifest.shards} is there already")
                continue
            rows = manifest.rows(shard)
            first, last = rows.start // data.batch_size, -(-rows.stop // data.batch_size)
            batches = pipeline.encoding_batches(augmentations, first, last)
            write_shard(folder, manifest, shard, _packed(trained, space, batches))
        on_progress(f"shard {shard} of {manifest.shards}: {len(rows):,} entries")
    return manifest


def _packed(trained: Trained, space: CodeSpace, batches: Iterator[Batch]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches:
        keep = batch["valid"]
        arrays = {name: x for name, x in batch.items() if name not in ("index", "valid", "caption", "label")}
        latents = jax.device_get(trained.encode(arrays))
        codes = np.asarray(latents.codes)[keep]
        label = batch.get("label", np.full(len(keep), -1))
        columns = {"label": label[keep], "index": batch["index"][keep], "caption": batch["caption"][keep]}
        if latents.mask is not None:
            columns["length"] = _lengths(np.asarray(latents.mask))[keep]
        yield {"packed": space.pack(codes), **columns}


def _lengths(mask: np.ndarray) -> np.ndarray:
    """Real tokens of each row of a mask [B, N, Q].

    Raises:
      ValueError: a row is no prefix, which token files cannot say.
    """
    present = mask.all(axis=-1)
    lengths = present.sum(axis=1)
    if (present != (np.arange(mask.shape[1]) < lengths[:, None])).any():
        raise ValueError("the tokens of a row are there with gaps between; token files store lengths alone")
    return lengths


def token_data(folder: str, data: Dataset, codes: StageCodes, frozen: Mapping[str, Variables]) -> TokenFiles:
    """The configuration that reads token files in place of the images of `data`.

    Args:
      folder: with the tokens.
      data: of the stage.
      codes: what the stage takes.
      frozen: variables of the earlier stages.

    Raises:
      ValueError: the tokens are of another split, code space, tokenizer or of other images; or see
        `TokenShards`.
    """
    manifest = read_manifest(Path(folder).expanduser())
    if manifest.split != "train":
        raise ValueError(f"{folder} holds the split {manifest.split!r}; training needs the split 'train'")
    if (manifest.levels, manifest.tokens) != (codes.space.levels, codes.tokens):
        raise ValueError(
            f"{folder} holds {manifest.tokens} tokens of levels {manifest.levels}, this prior learns "
            f"{codes.tokens} of {codes.space.levels}"
        )
    own = tokenizer_hash(frozen[codes.tokenizer])
    if manifest.tokenizer != own:
        raise ValueError(
            f"{folder} was written by tokenizer {manifest.tokenizer}, this run has {own}; encode again with "
            "the tokenizer of this run, or start from that one with --init-from and no steps of its own"
        )
    images = content_fingerprint(data, "train")
    if manifest.data != images:
        raise ValueError(
            f"{folder} was made from images with fingerprint {manifest.data}, this run's have {images}; "
            "encode the images of this run, or set the same --data"
        )
    return codes.files_of(data, folder)
