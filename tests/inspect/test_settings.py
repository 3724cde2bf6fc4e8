import numpy as np
import pytest

from jaxtok.inspect.settings import plot_setting
from tests.inspect.rendering import render, texts


def test_lines_over_the_values():
    measures = {"accuracy": {"a": [0.5, 1.0, 0.0], "b": [0.1, 0.2, 0.3]}, "distance": {"b": [3.0, 2.0, 1.0]}}
    figure = plot_setting("guidance", (0, 2, 8), measures, references={"accuracy": 0.9})
    render(figure)
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines[:2]] == list(measures["accuracy"].values())
    assert list(left.lines[2].get_ydata()) == [0.9, 0.9] and len(right.lines) == 1
    # A series has its colour in every panel.
    assert right.lines[0].get_color() == left.lines[1].get_color()
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "2", "8"]
    assert {"accuracy", "distance", "guidance", "a", "b"} <= set(texts(figure))


def test_names_are_not_joined():
    figure = plot_setting("", ("plain", "both"), {"accuracy": {"a": np.array([0.5, 1.0])}})
    render(figure)
    assert figure.axes[0].lines[0].get_linewidth() == 0 and "both" in texts(figure)


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_setting("x", (), {"m": {"a": []}})
    with pytest.raises(ValueError, match="'a' has 1 results of 'm' for 2 values"):
        plot_setting("x", (1, 2), {"m": {"a": [1.0]}})
    with pytest.raises(ValueError, match="8 lines"):
        plot_setting("x", (1,), {"m": {str(i): [1.0] for i in range(8)}})
