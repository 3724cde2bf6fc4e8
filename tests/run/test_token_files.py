import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents
from jaxtok.data.embedded import Digits
from jaxtok.data.errors import BadDataError
from jaxtok.data.pipeline import Pipeline
from jaxtok.data.token_shards import Manifest, TokenShards, read_manifest, shard_path, write_shard
from jaxtok.data.tokens import TokenFiles
from jaxtok.nn.images import to_float
from jaxtok.run import token_files
from jaxtok.run.pretrained import load
from jaxtok.run.token_files import encode_data, token_data, tokenizer_hash
from jaxtok.run.trained import Trained
from jaxtok.systems.image.base import ImageSystem
from jaxtok.train.stage import StageCodes
from tests.small_run import SMALL_CONFIG, small_cli, train_small


@dataclasses.dataclass(frozen=True)
class Brightness(ImageSystem):
    """A system whose codes are the brightness of 1,600 pixels modulo 3 and 5: no network, an odd alphabet."""

    space: CodeSpace = CodeSpace((3, 5))
    tokens: int = 800
    channels: int = 1

    def encode_images(self, variables, images):
        images = jnp.round((to_float(jnp.asarray(images)) + 1) * 127.5).astype(jnp.int32)
        pixels = jnp.tile(images[..., 0].reshape(len(images), -1), 25)[:, :1600].reshape(-1, 800, 2)
        return Latents(codes=pixels % jnp.array([3, 5]))


def fake(seed=0, to=np.asarray, kind=Trained):
    kernel = np.random.default_rng(seed).standard_normal(3).astype(np.float32)
    return kind(Brightness(), {"tokenizer": {"params": {"kernel": to(kernel)}}})


DATA = Digits(image_sizes=(8,), channels=1, batch_size=64, flip=True, crop="random")
CODES = StageCodes(CodeSpace((3, 5)), 800)
FROZEN = {"tokenizer": fake().variables["tokenizer"]}


@pytest.mark.parametrize("shard_size", [1, 200, 0])
def test_what_is_read_is_what_was_encoded(tmp_path, shard_size):
    manifest = encode_data(fake(), DATA, tmp_path, "eval", shard_size=shard_size)
    assert manifest.entries == 297 and manifest.bytes_per_entry == 400  # 800 tokens of one in 15
    assert manifest.block * 400 >= 2**16 and manifest.block % 64 == manifest.shard_size % manifest.block == 0
    assert manifest.shards == {1: 2, 200: 1, 0: 1}[shard_size]
    tokens = TokenShards(tmp_path)
    assert read_manifest(tmp_path) == tokens.manifest == manifest and len(tokens) == 297
    shards = [tokens.shard(number) for number in range(manifest.shards)]
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    source = DATA.open("eval")
    records = [source[number] for number in range(len(source))]
    np.testing.assert_array_equal(joined["index"], np.arange(297))  # in order, without augmentation
    np.testing.assert_array_equal(joined["label"], [record["label"] for record in records])
    np.testing.assert_array_equal(joined["caption"], [record["caption"] for record in records])
    images = np.stack([record["image"] for record in records])
    np.testing.assert_array_equal(joined["codes"], fake().encode(images).codes)
    assert joined["codes"].dtype == np.int32 and not list(tmp_path.glob("*.partial"))


def test_augmentations_are_augmented_versions(tmp_path):
    manifest = encode_data(fake(), DATA, tmp_path, "eval", augmentations=3)
    tokens = TokenShards(tmp_path)
    assert len(tokens) == manifest.entries == 3 * 297
    first, second = (tokens.codes(range(start, start + 20)) for start in (0, 297))
    assert [tokens.about(297 + i)["index"] for i in range(20)] == list(range(20))
    images = np.stack([DATA.open("eval")[i]["image"] for i in range(20)])
    plain, mirrored = (np.asarray(fake().encode(x).codes) for x in (images, images[:, :, ::-1]))
    for crop in (first, second):  # an 8x8 image has one crop, so only the flips differ
        same = [(row == a).all() or (row == b).all() for row, a, b in zip(crop, plain, mirrored)]
        assert all(same) and 0 < (crop == plain).all((1, 2)).sum() < 20
    assert (first != second).any()


def test_resolutions_are_drawn_per_batch_and_are_the_same_in_every_shard(tmp_path):
    data = dataclasses.replace(DATA, image_sizes=(8, 12, 16))
    seen = []

    class Watching(Trained):
        def encode(self, values):
            seen.append(values["image"].shape[1])
            return super().encode(values)

    encode_data(fake(kind=Watching), data, tmp_path / "many", "train", augmentations=1, shard_size=1)
    whole, seen = seen, []
    assert set(whole) == {8, 12, 16} and len(whole) == 24  # 1,500 images in batches of 64
    encode_data(fake(kind=Watching), data, tmp_path / "one", "train", augmentations=1)
    assert seen == whole


def test_only_missing_shards_are_made(tmp_path):
    lines = []
    encode_data(fake(), DATA, tmp_path, "train", shard_size=1, part=1, parts=2)
    with pytest.raises(ValueError, match="has not finished: 4 of 8 shards are missing, the first is 0"):
        TokenShards(tmp_path)
    kept = shard_path(tmp_path, "tokens", 1).stat().st_mtime_ns
    encode_data(fake(), DATA, tmp_path, "train", shard_size=1, on_progress=lines.append)
    assert sum("there already" in line for line in lines) == 4 and len(lines) == 8
    assert shard_path(tmp_path, "tokens", 1).stat().st_mtime_ns == kept
    assert len(TokenShards(tmp_path)) == 1500


def test_a_shard_that_was_begun_is_not_taken_for_one(tmp_path, monkeypatch):
    def stops(system, space, batches):
        yield next(iter(_packed(system, space, batches)))
        raise KeyboardInterrupt

    _packed = token_files._packed
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(token_files, "_packed", stops)
        encode_data(fake(), DATA, tmp_path, "eval")
    with pytest.raises(ValueError, match="has not finished: 1 of 1 shards"):
        TokenShards(tmp_path)
    encode_data(fake(), DATA, tmp_path, "eval")
    assert len(TokenShards(tmp_path)) == 297


def test_a_folder_holds_tokens_of_one_tokenizer_and_one_data_set(tmp_path):
    encode_data(fake(), DATA, tmp_path, "eval")
    encode_data(fake(), dataclasses.replace(DATA, text_length=9), tmp_path, "eval")  # captions stay texts
    with pytest.raises(ValueError, match="holds tokens with another tokenizer; choose another folder"):
        encode_data(fake(seed=1), DATA, tmp_path, "eval")
    with pytest.raises(ValueError, match="another data, split, images, augmentations, shard_size"):
        encode_data(fake(), DATA, tmp_path, "train", augmentations=2, shard_size=7)


def test_augmentation_of_another_seed_is_not_mixed_in(tmp_path):
    encode_data(fake(), DATA, tmp_path, "eval", augmentations=2, part=0, parts=2)
    with pytest.raises(ValueError, match="holds tokens with another seed"):
        encode_data(fake(), dataclasses.replace(DATA, seed=1), tmp_path, "eval", augmentations=2)


def test_tokens_that_no_stage_reads_are_an_error(small_run, tmp_path, capsys):
    encode_data(load(small_run[0]), SMALL_CONFIG.data, tmp_path / "tokens", "train")
    for folder, message in (
        ("tokens", "none of the stages ['tokenizer'] learns codes"),
        ("no", "holds no tokens"),
    ):
        with pytest.raises(SystemExit):
            train_small(tmp_path / "run", "--only", "tokenizer", "--tokens", tmp_path / folder)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong", [{"augmentations": -1}, {"shard_size": -1}, {"part": 1}, {"part": 2, "parts": 2}]
)
def test_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match="part="):
        encode_data(fake(), DATA, tmp_path, "eval", **wrong)
    assert not list(tmp_path.iterdir())


def test_no_tokens(tmp_path):
    with pytest.raises(ValueError, match=r"holds no tokens \(no manifest\.json\)"):
        TokenShards(tmp_path)


def test_tokens_of_an_older_format(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"levels": [2], "tokens": 4}))
    with pytest.raises(ValueError, match="have format 1, this version reads 2; encode them again"):
        TokenShards(tmp_path)


def test_hash_follows_the_weights_only():
    one, same, other, on_device = (
        tokenizer_hash(fake.variables["tokenizer"])
        for fake in (fake(), fake(), fake(seed=1), fake(to=jnp.asarray))
    )
    assert one == same == on_device != other


def test_tokens_stand_in_for_images(tmp_path):
    encode_data(fake(), DATA, tmp_path, "train")
    data = token_data(str(tmp_path), DATA, CODES, FROZEN)
    of_tokens, of_images = (next(Pipeline(d, "train", seed=4).batches(7)) for d in (data, DATA))
    assert of_tokens["codes"].dtype == np.uint8 and "image" not in of_tokens
    for name in ("label", "index", "valid"):  # the same records in the same order
        np.testing.assert_array_equal(of_tokens[name], of_images[name])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"split": "eval"}, "holds the split 'eval'; training needs the split 'train'"),
        ({"codes": StageCodes(CodeSpace((3, 5)), 7)}, r"800 tokens of levels \(3, 5\), this prior learns 7"),
        (
            {"frozen": {"tokenizer": fake(1).variables["tokenizer"]}},
            "was written by tokenizer .* this run has",
        ),
        ({"data": dataclasses.replace(DATA, flip=False)}, "from images with fingerprint"),
    ],
    ids=["split", "codes", "tokenizer", "images"],
)
def test_tokens_that_do_not_belong_to_the_run(tmp_path, change, message):
    encode_data(fake(), DATA, tmp_path, change.pop("split", "train"))
    with pytest.raises(ValueError, match=message):
        token_data(str(tmp_path), **{"data": DATA, "codes": CODES, "frozen": FROZEN} | change)


@pytest.mark.parametrize("kind", ["tokens", "about"])
def test_a_damaged_shard_is_named(tmp_path, kind):
    encode_data(fake(), DATA, tmp_path, "train", shard_size=1)
    path = shard_path(tmp_path, kind, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes(40) + whole[340:])
    batches = Pipeline(TokenFiles(path=str(tmp_path), levels=(3, 5), tokens=800, batch_size=64)).batches(0)
    with pytest.raises(
        BadDataError, match=f"16 records in a row cannot be decoded: entry .* in .*{path.name}"
    ):
        for _ in range(24):
            assert next(batches)["codes"].shape == (64, 800, 2)


@pytest.mark.parametrize("kind", ["tokens", "about"])
def test_a_shard_that_is_cut_short_is_named(tmp_path, kind):
    encode_data(fake(), DATA, tmp_path, "train", shard_size=1)
    path = shard_path(tmp_path, kind, 3)
    path.write_bytes(path.read_bytes()[:70_000])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
        TokenShards(tmp_path)


def test_codes_of_a_trained_system_survive(small_run, tmp_path):
    system = load(small_run[0])
    manifest = encode_data(system, SMALL_CONFIG.data, tmp_path, "eval")
    source = SMALL_CONFIG.data.open("eval")
    images = np.stack([source[number]["image"] for number in range(20)])
    tokens = TokenShards(tmp_path)
    np.testing.assert_array_equal(tokens.codes(range(20)), system.encode(images).codes)
    assert manifest.levels == (2, 2, 2, 2) and manifest.source["type"] == "digits"


@pytest.mark.slow
def test_training_on_tokens_is_training_on_images(small_run, tmp_path):
    """Without augmentation: the same codes in the same order, so the same parameters."""
    steps = ("--tokenizer.steps", "0", "--init-from", small_run[0], "--only", "autoregressive", "independent")
    train_small(tmp_path / "images", *steps)
    small_cli("encode", "--workdir", tmp_path / "images", "--out", tmp_path / "tokens")
    printed = train_small(tmp_path / "tokens_run", *steps, "--tokens", tmp_path / "tokens")
    assert "codes" in printed
    of_images, of_tokens = (load(tmp_path / name, averaged=False) for name in ("images", "tokens_run"))
    for stage in ("autoregressive", "tokenizer"):
        for a, b in zip(*(leaves(system.variables[stage]) for system in (of_images, of_tokens)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def leaves(tree):
    return jax.tree.leaves(jax.device_get(tree))


def test_tokens_of_another_tokenizer_are_neither_decoded_nor_trained_on(small_run, tmp_path, capsys):
    encode_data(fake(), DATA, tmp_path, "eval")
    assert json.loads((tmp_path / "manifest.json").read_text())["tokenizer"]
    with pytest.raises(SystemExit):
        small_cli("decode", "--workdir", small_run[0], "--tokens", tmp_path, "--out", tmp_path / "out")
    assert "tokens written by tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_are_hardly_larger_than_their_codes(tmp_path):
    """At most 3 % (measured: 1.6 % at 8 MB, 0.3 % at 64 MiB); records of at least 64 KiB."""
    space, images = CodeSpace.binary(64), 8192
    manifest = Manifest(space.levels, 128, "t", "d", {}, "train", images, 0, block=64, shard_size=images)
    packed = np.random.default_rng(0).integers(0, 256, (images, manifest.bytes_per_entry), np.uint8)
    numbers = np.arange(images)
    columns = {"packed": packed, "label": numbers, "index": numbers, "caption": numbers.astype(str)}
    manifest.write(tmp_path)
    write_shard(tmp_path, manifest, 0, iter([columns]))
    payload = images * 128 * 64 // 8
    assert payload < shard_path(tmp_path, "tokens", 0).stat().st_size < 1.03 * payload
    tokens = pickle.loads(pickle.dumps(TokenShards(tmp_path)))  # as a worker process gets it
    np.testing.assert_array_equal(space.pack(tokens.codes(range(5000, 5010))), packed[5000:5010])
    assert tokens.about(5001) == {"label": 5001, "index": 5001, "caption": "5001"}
    with pytest.raises(ValueError, match="shard 0 got 3 entries, it has 8192"):
        write_shard(tmp_path, manifest, 0, iter([{name: rows[:3] for name, rows in columns.items()}]))
