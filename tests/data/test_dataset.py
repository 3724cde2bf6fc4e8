"""What data sets refuse, and what a batch of examples is."""

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import tyro

from jaxtok.config_files import from_json, to_json
from jaxtok.data.batching import EvaluationBatch
from jaxtok.data.dataset import Dataset, Field
from jaxtok.data.embedded import Digits, Photos
from jaxtok.data.errors import BadRecord
from jaxtok.data.folder import ImageFolder
from jaxtok.data.image_data import ImageData
from jaxtok.data.records import Source
from jaxtok.data.shapes import Shapes
from jaxtok.kinds import kinds_of, replace_kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_sizes=()), "data.image_sizes"),
        (dict(image_sizes=(16, 0)), "data.image_sizes"),
        (dict(channels=4), "data.channels is 4"),
        (dict(batch_size=0), "data.batch_size"),
        (dict(text_length=-1), "data.text_length"),
        (dict(crop="middle"), "data.crop"),
        (dict(crop_scale=(0.5, 1.5)), "data.crop_scale"),
        (dict(crop_ratio=(2.0, 1.0)), "data.crop_ratio"),
        (dict(resize="area"), "data.resize"),
        (dict(held_out=-1.0), "data.held_out"),
        (dict(held_out=1.5), "data.held_out"),
        (dict(seed=-1), "data.seed"),
        (dict(workers=-1), "data.workers"),
        (dict(workers=2, prefetch=0), "data.prefetch is 0, but each of the 2 workers"),
        (dict(max_bad_fraction=1.0), "data.max_bad_fraction"),
    ],
)
def test_wrong_values_are_named(changes, message):
    # Made without the run-time type checks: a user's JSON or notebook has none.
    data = object.__new__(ImageFolder)
    for name, value in (dataclasses.asdict(ImageFolder()) | changes).items():
        object.__setattr__(data, name, value)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        data.__post_init__()


def test_what_a_source_needs():
    with pytest.raises(ValueError, match=r"data\.path is '', but 'folder' reads files"):
        ImageFolder().open("train")
    with pytest.raises(ValueError, match=r"data\.channels is 1, but the captions of 'shapes' name colours"):
        Shapes(channels=1)


def test_defaults_and_flags():
    data = tyro.cli(Shapes, args=["--image-sizes", "16", "24"])
    assert data == Shapes(channels=3, image_sizes=(16, 24))


@dataclasses.dataclass(frozen=True)
class Config:
    data: ImageData = Digits(image_sizes=(8,), batch_size=4)


def test_a_kind_is_chosen_by_name_and_keeps_what_both_have():
    config = replace_kind(Config(), "data", "folder")
    assert config.data == ImageFolder(image_sizes=(8,), batch_size=4)
    assert replace_kind(config, "data", "jaxtok.data.embedded:Digits") == Config()
    stored = to_json(config)
    assert stored["data"]["type"] == "folder" and from_json(Config, stored) == config
    for name, message in (("tokens", "expected one of arrayrecord"), ("a.b:C", "cannot be imported")):
        with pytest.raises(ValueError, match=message):
            replace_kind(Config(), "data", name)
    with pytest.raises(ValueError, match="no ImageData"):
        replace_kind(Config(), "data", "jaxtok.data.tokens:TokenFiles")
    with pytest.raises(ValueError, match="has no kinds"):
        replace_kind(Config(), "data.batch_size", "folder")
    assert {"digits", "folder", "tokens"} <= set(kinds_of(Dataset))


class Words(Source):
    def __len__(self):
        return 3

    def raw(self, index):
        return {"key": str(index), "word": np.arange(index + 1)}

    def identity(self):
        return "words"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordData(Dataset):
    length: int = 4
    unreadable: tuple[str, ...] = ()

    def open(self, split):
        return Words()

    def fields(self):
        return {"word": Field((self.length,), np.int32, pad="length")}

    def example(self, record: Any, step, rng):
        if record["key"] in self.unreadable:
            raise BadRecord(record["key"], "no word")
        return {"word": record["word"]}


def test_examples_of_different_lengths_are_filled_up():
    data = WordData(batch_size=4)
    batch, failures = EvaluationBatch(data.open("eval"), data, range(4))(0)
    assert batch["word"].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert batch["word_mask"].sum(axis=1).tolist() == [1, 2, 3, 0] and not failures
    assert batch["valid"].tolist() == [True, True, True, False] and batch["index"].tolist() == [0, 1, 2, -1]
    with pytest.raises(ValueError, match="3 entries of 'word', but at most 2 fit"):
        EvaluationBatch(data.open("eval"), WordData(length=2), range(4))(0)


def test_a_record_that_no_example_can_be_made_of_is_replaced():
    data = WordData(batch_size=4, unreadable=("1",))
    batch, failures = EvaluationBatch(data.open("eval"), data, range(4))(0)
    assert batch["index"].tolist() == [0, 2, 2, -1] and failures == [("1", "no word")]
    assert batch["valid"].tolist() == [True, False, True, False]
    assert batch["word"][1].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"word": np.arange(2), "speaker": np.array(1)}, r"has \['speaker'\], which no batch would hold"),
        ({}, r"lacks \['word'\]"),
        ({"word": np.array([0.5, 1.0])}, "'word' in float64, which int32 would cut"),
        ({"word": np.array([0.5]), "word_mask": np.array([True])}, "'word' in float64"),
    ],
)
def test_no_array_of_an_example_is_dropped_or_cut(example, message):
    with pytest.raises(ValueError, match=message):
        WordData().collate([example])


@pytest.mark.parametrize("data", [Digits(), Photos(), Shapes(), ImageFolder(path="somewhere")])
def test_there_are_two_splits(data):
    # Without the run-time type checks of the tests, as a user calls it.
    opened = inspect.unwrap(type(data).open)
    with pytest.raises(ValueError, match="split is 'test', but must be one of train, eval"):
        opened(data, "test")
