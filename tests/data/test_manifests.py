"""A manifest of token files that is not true of its folder is refused before anything is read."""

import dataclasses
import json

import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.data.token_shards import MANIFEST, Manifest, TokenShards, write_shard

LEVELS, TOKENS, IMAGES, BLOCK = (2, 2, 2), 3, 150, 50


@pytest.fixture
def folder(tmp_path):
    manifest = Manifest(LEVELS, TOKENS, "tokenizer", "data", {"seed": 0}, "eval", IMAGES, 0, BLOCK, 100)
    manifest.write(tmp_path)
    codes = np.random.default_rng(0).integers(0, 2, (IMAGES, TOKENS, len(LEVELS)))
    packed = CodeSpace(LEVELS).pack(codes)
    for shard in range(2):
        rows = np.asarray(manifest.rows(shard))
        batch = {
            "packed": packed[rows],
            "label": rows % 3,
            "index": rows,
            "caption": np.array(["x"] * len(rows)),
        }
        write_shard(tmp_path, manifest, shard, iter([batch]))
    return tmp_path


def change(folder, **fields):
    content = json.loads((folder / MANIFEST).read_text()) | fields
    (folder / MANIFEST).write_text(json.dumps(content))


def test_what_was_written_is_read(folder):
    shards = TokenShards(folder)
    assert len(shards) == IMAGES and shards.codes([0, 149]).shape == (2, TOKENS, len(LEVELS))
    assert shards.about(149)["index"] == 149


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": 10}, "speaks of 1 shards, and 2 are in the folder"),
        ({"images": 101}, "speaks of 101 entries, and the shards hold another number"),
        ({"images": 10**12}, "9999999998 of 10000000000 shards"),
        ({"images": 0}, "images is 0, but must be at least 1"),
        ({"images": 10**30}, "images is 1000000000000000000000000000000"),
        ({"images": -5}, "images is -5"),
        ({"images": 1.5}, r"0\.5|1\.5"),
        ({"images": True}, "true or false"),
        ({"tokens": 0}, "tokens is 0"),
        ({"levels": []}, r"levels is \[\]"),
        ({"levels": [2, 1]}, "levels"),
        ({"levels": "22"}, "a text"),
        ({"block": 0}, "block is 0"),
        ({"shard_size": 70}, "no multiple of block"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_what_is_not_true_is_refused(folder, fields, message):
    change(folder, **fields)
    with pytest.raises(ValueError, match=message) as error:
        TokenShards(folder)
    assert str(folder) in str(error.value)


def test_a_field_that_is_absent_is_named(folder):
    content = json.loads((folder / MANIFEST).read_text())
    # Token files of before lengths say nothing of them: `test_token_files_are_those_of_the_run`.
    needed = [f.name for f in dataclasses.fields(Manifest) if f.name not in ("version", "lengths")]
    for name in needed:
        (folder / MANIFEST).write_text(json.dumps({k: v for k, v in content.items() if k != name}))
        with pytest.raises(ValueError, match=rf"lacks {name}\. Encode the images again"):
            TokenShards(folder)
