import json
import sys
import types

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxtok.train.writers import (
    JsonlWriter,
    MultiWriter,
    PngWriter,
    TensorBoardWriter,
    WandbWriter,
    default_writer,
)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_writes_at_once_and_knows_no_nan(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl", "prior")
    writer.scalars(3, {"loss": 0.5, "norm": float("nan")})
    writer.text(4, "samples", "a seven")
    assert _lines(tmp_path / "metrics.jsonl") == [
        {"stage": "prior", "step": 3, "loss": 0.5, "norm": None},
        {"stage": "prior", "step": 4, "samples": "a seven"},
    ]
    writer.close()


def test_resumed_stage_drops_its_later_lines_and_the_broken_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for stage in ("tokenizer", "prior"):
        writer = JsonlWriter(path, stage)
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": 1.0})
        writer.close()
    path.write_text(path.read_text() + '{"stage": "prior", "step": 4')  # killed while writing
    writer = JsonlWriter(path, "prior", step=20)
    writer.scalars(30, {"loss": 2.0})
    writer.close()
    assert [(line["stage"], line["step"], line["loss"]) for line in _lines(path)] == [
        ("tokenizer", 10, 1.0),
        ("tokenizer", 20, 1.0),
        ("tokenizer", 30, 1.0),
        ("prior", 10, 1.0),
        ("prior", 20, 1.0),
        ("prior", 30, 2.0),
    ]


def test_stage_that_starts_over_keeps_only_other_stages(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for stage in ("tokenizer", "prior", "prior"):
        writer = JsonlWriter(path, stage)
        writer.scalars(1, {"loss": 1.0})
        writer.close()
    assert [line["stage"] for line in _lines(path)] == ["tokenizer", "prior"]


def test_png_of_arrays_and_figures(tmp_path):
    writer = PngWriter(tmp_path / "figures", "prior")
    grid = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    writer.image(12, "samples/seven", grid)
    writer.image(12, "curve", Figure(figsize=(1, 1)))
    np.testing.assert_array_equal(Image.open(tmp_path / "figures" / "prior_samples_seven_0000012.png"), grid)
    assert (tmp_path / "figures" / "prior_curve_0000012.png").stat().st_size > 0


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4, 1), np.uint8), np.zeros(4, np.uint8)])
def test_png_refuses_what_is_not_a_picture(tmp_path, image):
    with pytest.raises(ValueError, match=r"uint8 \[H, W\] or \[H, W, 3\]; this one is"):
        PngWriter(tmp_path, "prior").image(1, "x", image)


def test_tensorboard_takes_everything(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = TensorBoardWriter(tmp_path, "prior", step=3)
    writer.scalars(4, {"loss": 1.0})
    writer.image(4, "grid", np.zeros((4, 4, 3), np.uint8))
    writer.image(4, "grey", np.zeros((4, 4), np.uint8))
    writer.image(4, "curve", Figure(figsize=(1, 1)))
    writer.text(4, "note", "hello")
    writer.hparams({"model": {"width": 3}})
    writer.close()
    (events,) = (tmp_path / "prior").iterdir()
    content = events.read_bytes()
    assert all(word in content for word in (b"loss", b"grid", b"grey", b"curve", b"hello", b"width"))


def test_wandb_continues_the_same_run(tmp_path, monkeypatch):
    calls = []

    class Run:
        config = types.SimpleNamespace(update=lambda values, allow_val_change: calls.append(values))
        define_metric = staticmethod(lambda name, step_metric: calls.append((name, step_metric)))
        log = staticmethod(calls.append)
        finish = staticmethod(lambda: calls.append("finish"))

    def init(**kwargs):
        calls.append(kwargs["id"])
        return Run

    ids = iter("ab")
    fake = types.SimpleNamespace(
        init=init, Image=lambda image: "image", util=types.SimpleNamespace(generate_id=lambda: next(ids))
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    WandbWriter("project", tmp_path, "tokenizer").close()
    writer = WandbWriter("project", tmp_path, "prior")
    writer.scalars(1, {"loss": 2.0})
    writer.image(2, "grid", np.zeros((2, 2, 3), np.uint8))
    assert calls == [
        "a",
        ("tokenizer/*", "tokenizer/step"),
        "finish",
        "a",
        ("prior/*", "prior/step"),
        {"prior/step": 1, "prior/loss": 2.0},
        {"prior/step": 2, "prior/grid": "image"},
    ]


def test_default_writer_passes_on_to_all(tmp_path, capsys):
    writer = default_writer(tmp_path, "prior", total_steps=10, examples_per_step=4)
    writer.hparams({"a": 1})
    writer.scalars(5, {"loss": 1.25})
    writer.image(5, "grid", np.zeros((2, 2, 3), np.uint8))
    writer.text(5, "note", "hello")
    writer.close()
    assert "prior 5/10 | loss 1.25" in capsys.readouterr().out
    assert _lines(tmp_path / "metrics.jsonl")[0]["loss"] == 1.25
    assert (tmp_path / "figures" / "prior_grid_0000005.png").exists()


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    writer = default_writer(tmp_path / "run", "prior", total_steps=10, examples_per_step=4)
    assert isinstance(writer, MultiWriter)
    writer.scalars(1, {"loss": 1.0})
    writer.close()
    assert not (tmp_path / "run").exists()
