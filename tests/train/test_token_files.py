import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents
from jaxtok.data.config import Data
from jaxtok.data.sources import open_source
from jaxtok.systems.image.image_system import ImageSystem
from jaxtok.train import token_files
from jaxtok.train.pretrained import load
from jaxtok.train.token_files import encode_data, read_tokens, tokenizer_hash
from tests.small_run import SMALL_CONFIG, small_cli


class Fake(ImageSystem):
    """A system whose codes are the quantised brightness of four pixels: no network, an odd alphabet."""

    def __init__(self, seed=0, to=np.asarray):
        kernel = np.random.default_rng(seed).standard_normal(3).astype(np.float32)
        model = types.SimpleNamespace(space=CodeSpace((3, 5)), tokens=2)
        super().__init__(model, {"tokenizer": {"params": {"kernel": to(kernel)}}})

    def encode(self, images):
        pixels = images[:, 2:4, 2:4, 0].astype(np.int32)
        return Latents(codes=jnp.asarray(pixels % np.array([3, 5])))


DATA = Data("digits", image_sizes=(8,), channels=1, batch_size=64, flip=True, crop="random")


@pytest.mark.parametrize("shard_size", [50, 64, 1000])
def test_what_is_read_is_what_was_encoded(tmp_path, shard_size):
    manifest = encode_data(Fake(), DATA, tmp_path, "eval", shard_size)
    assert manifest["images"] == 297 and manifest["shards"] == -(-297 // shard_size)
    assert manifest["bytes_per_image"] == 1  # two tokens of one in 15
    stored, shards = read_tokens(tmp_path)
    shards = list(shards)
    assert stored == manifest and [len(shard["index"]) for shard in shards[:-1]] == [shard_size] * (
        len(shards) - 1
    )
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    source = open_source(DATA, "eval")
    records = [source[number] for number in range(len(source))]
    np.testing.assert_array_equal(joined["index"], np.arange(297))  # in order, without augmentation
    np.testing.assert_array_equal(joined["labels"], [record["label"] for record in records])
    images = np.stack([record["image"] for record in records])
    np.testing.assert_array_equal(joined["codes"], Fake().encode(images).codes)
    assert joined["codes"].dtype == np.int32 and not list(tmp_path.glob("*.partial"))


def test_codes_of_a_trained_system_survive(small_run, tmp_path):
    system = load(small_run[0])
    encode_data(system, SMALL_CONFIG.data, tmp_path, "eval")
    manifest, shards = read_tokens(tmp_path)
    (shard,) = shards
    source = open_source(SMALL_CONFIG.data, "eval")
    images = np.stack([source[number]["image"] for number in range(20)])
    np.testing.assert_array_equal(shard["codes"][:20], system.encode(images).codes)
    assert manifest["levels"] == [2, 2, 2, 2] and manifest["tokenizer"] == tokenizer_hash(system)
    assert manifest["source"]["source"] == "digits"


def test_a_folder_holds_tokens_of_one_tokenizer_and_one_data_set(tmp_path):
    encode_data(Fake(), DATA, tmp_path, "eval")
    encode_data(Fake(), DATA, tmp_path, "eval")  # the same again is fine
    with pytest.raises(ValueError, match="holds tokens with another tokenizer; choose another folder"):
        encode_data(Fake(seed=1), DATA, tmp_path, "eval")
    with pytest.raises(ValueError, match="holds tokens with another data, split, shard_size"):
        encode_data(Fake(), DATA, tmp_path, "train", shard_size=7)


def test_encoding_that_was_stopped_is_noticed_and_done_again(tmp_path, monkeypatch):
    def stops(system, pipeline):
        yield from []
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(token_files, "_encoded", stops)
        encode_data(Fake(), DATA, tmp_path, "eval")
    with pytest.raises(ValueError, match="has not finished; run the same command again"):
        read_tokens(tmp_path)
    assert encode_data(Fake(), DATA, tmp_path, "eval")["images"] == 297
    assert len(list(read_tokens(tmp_path)[1])) == 1


def test_no_tokens(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokens \(no manifest\.json\)"):
        read_tokens(tmp_path)


def test_hash_follows_the_weights_only():
    assert tokenizer_hash(Fake()) == tokenizer_hash(Fake()) != tokenizer_hash(Fake(seed=1))
    assert tokenizer_hash(Fake(to=jnp.asarray)) == tokenizer_hash(Fake())


def test_tokens_of_another_tokenizer_are_not_decoded(small_run, tmp_path, capsys):
    encode_data(Fake(), DATA, tmp_path, "eval")
    assert json.loads((tmp_path / "manifest.json").read_text())["tokenizer"] == tokenizer_hash(Fake())
    with pytest.raises(SystemExit):
        small_cli("decode", "--workdir", small_run[0], "--tokens", tmp_path, "--out", tmp_path / "out")
    assert f"tokens written by tokenizer {tokenizer_hash(Fake())}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
