"""Damaged files at the border end with one plain sentence that names the file."""

import json
import random

import pytest

from experiments.tables.claims import claims_table, read_claims
from jaxtok.config_files import from_json
from jaxtok.data.token_shards import TokenShards
from jaxtok.evaluate.protocol import Result, read_results, write_results
from jaxtok.inspect.run_folder import read_run
from jaxtok.json_files import read_json, read_object
from jaxtok.nn.clip_config import ClipConfig
from jaxtok.nn.llama_config import LlamaConfig
from jaxtok.run.pretrained import from_pretrained, read_config
from jaxtok.run.sweep.study import open_study
from jaxtok.systems.image.titok import TiTok

TEXTS = {
    "config": {"experiment": "titok", "config": {"model": {"tokens": 4}, "data": {"path": "x"}}, "seed": 0},
    "pretrained": {"system": "titok", "model": {"tokens": 4}, "components": ["tokenizer"], "record": {}},
    "manifest": {
        "levels": [2, 2], "tokens": 3, "tokenizer": "a", "data": "b", "source": {"seed": 0}, "split": "eval",
        "images": 9, "augmentations": 0, "block": 4, "shard_size": 8, "version": 2,
    },
    "results": [{"name": "psnr", "value": 1.5, "protocol": {"images": 3}}],
    "llama": {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9},
    "claims": {
        "experiment": "var", "preset": "tiny", "date": "2026-01-01", "seeds": [0], "claims": [{
            "name": "a", "holds": True, "margin": 1.5, "margin_reached": True,
            "smallest_mean_difference": 2.0,
            "arms": [{"label": "b", "values": [3.0]}, {"label": "c", "values": [1.0]}],
        }],
    },
    "summary": {"tokenizer": {"steps": 3, "seconds": 2.5}, "prior": {"steps": 4, "seconds": 1}},
}  # fmt: skip
WHOLE = {name: json.dumps(value, indent=1).encode() for name, value in TEXTS.items()}
# One line each.
METRICS = [{"stage": "tokenizer", "step": step, "loss": 0.5, "note": "x"} for step in range(5)]
WHOLE["metrics"] = b"".join(json.dumps(line).encode() + b"\n" for line in METRICS)


def reader(name, folder):
    """Reads the file of that kind in a folder."""
    named = {name: f"{name}.json" for name in ("manifest", "results", "claims", "summary")}
    file = {**named, "metrics": "metrics.jsonl", "journal": "study.journal"}.get(name, "config.json")
    how = {
        "config": lambda: (read_run(folder), model_of(folder)),
        "pretrained": lambda: from_pretrained(folder),
        "manifest": lambda: TokenShards(folder),
        "results": lambda: read_results(folder / file),
        "llama": lambda: LlamaConfig.from_hugging_face(folder / file),
        "claims": lambda: claims_table(folder / file, read_claims(folder / file), folder),
        "summary": lambda: without_problems(read_run(folder)),
        "metrics": lambda: without_problems(read_run(folder)),
        "journal": lambda: open_study(str(folder / file), "sweep", "minimize", {"of": "test"}, "none"),
    }
    return folder / file, how[name]


def without_problems(run):
    """A run that is going may be writing its files: what cannot be read is named beside the rest."""
    if run.problems:
        raise ValueError("; ".join(run.problems))


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "study.journal"
    study = open_study(str(path), "sweep", "minimize", {"of": "test"}, "none")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    return path.read_bytes()


def model_of(folder):
    """As `load` reads it, without tracing a model for its shapes."""
    return from_json(TiTok, read_config(folder)["config"].get("model"), "model")


VALUES = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"10000000000000",
    b'"x"',
    b"[]",
    b"{}",
    b"NaN",
    b"[[1]]",
    b"0.5",
)


def mutated(data, rng):
    """A file with some bytes flipped, cut or repeated, or with a value in the place of another."""
    data, kind = bytearray(data), rng.randrange(5)
    at = rng.randrange(len(data))
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[max(0, at - rng.randrange(30)) : at]
    elif kind == 3:
        colon = data.find(b": ", at)
        end = min((i for i in (data.find(b",", colon), data.find(b"\n", colon)) if i > 0), default=len(data))
        data[colon + 2 : end] = rng.choice(VALUES)
    else:
        colon = data.find(b": ", at)
        data[colon + 2 : colon + 2] = b"[" * 100_000
    return bytes(data)


# Of lines, the last one may be cut; of a journal and of metrics most damage is in what nothing reads.
LEAST = {"journal": 100, "metrics": 100}


@pytest.mark.parametrize("name", [*WHOLE, "journal"])
def test_five_hundred_damaged_files_end_with_one_plain_sentence(name, tmp_path, request):
    rng, refused = random.Random(0), 0
    path, read = reader(name, tmp_path)
    whole = request.getfixturevalue("journal") if name == "journal" else WHOLE[name]
    if name in ("summary", "metrics"):
        (tmp_path / "config.json").write_bytes(WHOLE["config"])
    (tmp_path / "model.safetensors").write_bytes(b"") if name == "pretrained" else None
    for number in range(500):
        path.write_bytes(mutated(whole, rng))
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert len(str(error)) < 2000 and str(error), number
    assert refused > LEAST.get(name, 250)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b'{"a": NaN}', "it holds NaN"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must hold an object"),
        (b"{}", "lacks a"),
        (b'{"a": "x"}', r"a text \('x'\) as 'a', but it must be a whole number"),
        (b'{"a": true}', r"true or false \(True\) as 'a'"),
    ],
)
def test_what_is_wrong_is_named(content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.json.*{message}.*Do this\."):
        read_object(path, {"a": int}, "Do this.")


def test_what_is_right_is_read(tmp_path):
    write_results(tmp_path / "r.json", [Result("psnr", 1.5, {"images": 3})])
    assert read_results(tmp_path / "r.json") == [Result("psnr", 1.5, {"images": 3})]
    assert read_json(tmp_path / "r.json", "")[0]["name"] == "psnr"
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json", "")


def test_configurations_may_be_given_as_they_are():
    with pytest.raises(ValueError, match="not CLIP"):
        ClipConfig.from_hugging_face({"model_type": "llama"})
