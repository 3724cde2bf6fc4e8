import builtins
import json
import sys

import numpy as np
import pytest

from jaxtok.nn.subword_text import tokenize


@pytest.fixture
def folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[unk]", "[pad]", "[begin]", "[end]", "a", "red", "square"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[unk]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    # Settings stored in the file must not matter.
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    configure(tmp_path, bos_token_id=None, eos_token_id=[3, 2], pad_token_id=1)
    return tmp_path


def configure(folder, **ids):
    (folder / "config.json").write_text(json.dumps(ids))


def test_padding_on_either_side_and_cutting_at_the_end(folder):
    ids, mask = tokenize(folder, ["a red square", "red", "a a a red red"], 4)
    np.testing.assert_array_equal(ids, [[1, 4, 5, 6], [1, 1, 1, 5], [4, 4, 4, 5]])
    np.testing.assert_array_equal(mask, [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
    assert ids.dtype == np.int32 and mask.dtype == bool
    right, right_mask = tokenize(folder, ["red"], 3, left=False)
    np.testing.assert_array_equal(right, [[5, 1, 1]])
    np.testing.assert_array_equal(right_mask, [[1, 0, 0]])


def test_special_tokens_are_those_of_the_file_and_survive_cutting(folder):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[begin] $A [end]", special_tokens=[("[begin]", 2), ("[end]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    np.testing.assert_array_equal(tokenize(folder, ["a red square", ""], 4)[0], [[2, 4, 5, 3], [1, 1, 2, 3]])


def test_an_empty_text_has_one_token(folder):
    ids, mask = tokenize(folder, [""], 2)
    np.testing.assert_array_equal(ids, [[1, 3]])
    np.testing.assert_array_equal(mask, [[False, True]])


def test_an_empty_text_needs_a_token_that_stands_for_it(folder):
    configure(folder, pad_token_id=-1)
    assert tokenize(folder, ["a"], 2)[0].tolist() == [[0, 4]]
    with pytest.raises(ValueError, match="has no tokens"):
        tokenize(folder, [""], 2)


def test_bad_arguments(folder, tmp_path_factory):
    with pytest.raises(ValueError, match="text length is 0"):
        tokenize(folder, ["a"], 0)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        tokenize(tmp_path_factory.mktemp("empty"), ["a"], 2)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"jaxtok\[text\]"):
        tokenize(tmp_path, ["a"], 2)
