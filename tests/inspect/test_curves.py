import json

import numpy as np
import pytest

from jaxtok.inspect import read_metrics, training_curves
from tests.inspect.rendering import render, texts


def test_resumed_and_cut_off_files(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "loss": 3}\n{"step": 10, "loss": 2, "ok": true}\n\n{"step": 10, "loss": 1.5}\n{"st'
    )
    metrics = read_metrics(tmp_path)
    assert list(metrics) == ["loss"]
    np.testing.assert_array_equal(metrics["loss"], [[0, 10], [3, 1.5]])


def test_stages_with_the_same_metric_stay_apart(tmp_path):
    lines = [{"stage": stage, "step": 1, "loss": value} for stage, value in (("a", 1.0), ("b", 2.0))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    metrics = read_metrics(tmp_path)
    assert {name: list(values) for name, (_, values) in metrics.items()} == {"a/loss": [1.0], "b/loss": [2.0]}


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"loss": 2}\n{"step": 10, "loss": 1.5}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_curves_overlay_runs(metrics_file, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"step": s, "loss": 2.0, "psnr": s}) + "\n" for s in range(5)))
    figure = training_curves({"first": metrics_file, "second": other}, title="two runs")
    render(figure)
    assert {"loss", "psnr", "two runs", "first", "second"} <= set(texts(figure))
    assert figure.axes[0].get_yscale() == "log" and figure.axes[1].get_yscale() == "linear"


def test_smoothing_keeps_constants_and_holes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = [2.0] * 20 + [float("nan")] + [2.0] * 19
    path.write_text("".join(json.dumps({"step": s, "loss": v}) + "\n" for s, v in enumerate(values)))
    figure = training_curves(path, smooth=0.1)
    render(figure)
    smooth = figure.axes[0].lines[1].get_ydata()
    np.testing.assert_array_equal(smooth, values)


def test_unknown_names_list_the_known(metrics_file):
    with pytest.raises(ValueError, match=r"\['lose'\] are in no run; there are: loss"):
        training_curves(metrics_file, ["lose"])
    with pytest.raises(ValueError, match="at most 7"):
        training_curves({str(run): metrics_file for run in range(8)})
