import numpy as np
import pytest

from jaxtok.inspect.sweeps import importance_figure, parallel_coordinates
from tests.inspect.rendering import render, texts

TRIALS = [({"rate": 10.0**-number, "kind": kind}, float(number)) for number, kind in enumerate("abba", 1)]


def test_a_line_per_trial_ends_at_its_result():
    figure = parallel_coordinates(TRIALS, "stage/psnr", log={"rate"})
    lines = [np.asarray(line.get_ydata()) for line in figure.axes[0].lines]
    drawn = np.array(sorted(line.tolist() for line in lines if line.size == 3))
    expected = [[1 - x, k, x] for x, k in zip(np.linspace(0, 1, 4), (0, 1, 1, 0))]
    np.testing.assert_allclose(drawn, sorted(expected), atol=1e-9)
    assert {"0.0001", "0.1", "a", "b"} <= set(texts(figure))
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == ["rate", "kind", "stage/\npsnr"]
    assert render(figure).std() > 5
    with pytest.raises(ValueError, match="no finished trials"):
        parallel_coordinates([], "psnr")


def test_equal_values_do_not_divide_by_zero():
    figure = parallel_coordinates([({"rate": 1.0}, 2.0), ({"rate": 1.0}, 2.0)], "psnr")
    assert all(np.isfinite(line.get_ydata()).all() for line in figure.axes[0].lines)


def test_shares_are_written_beside_their_bars():
    figure = importance_figure({"rate": 0.75, "kind": 0.25}, "psnr")
    assert {"75%", "25%"} <= set(texts(figure))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["kind", "rate"]
