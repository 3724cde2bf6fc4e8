import numpy as np
import pytest

from jaxtok.inspect.comparison import QuantizerRow, plot_prefix_psnr, plot_usage_and_error, plot_usage_history
from tests.inspect.rendering import render, texts

ROWS = {"plain": QuantizerRow(0.005, 0.01, 0.07), "lfq_no_diversity": QuantizerRow(0.7, 0.98, 0.03)}


def test_bars_have_the_lengths_of_the_numbers():
    figure = plot_usage_and_error(ROWS, 4096, threshold=0.6)
    render(figure)
    left, right = figure.axes
    widths = [bar.get_width() for bar in left.patches]
    assert widths == pytest.approx([1, 98, 0.5, 70])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.07, 0.03])
    assert {"0.5", "70", "0.07", "0.03", "plain", "lfq no diversity", "60% (hypothesis)"} <= set(
        texts(figure)
    )
    assert left.lines[0].get_xdata()[0] == pytest.approx(60)
    assert not plot_usage_and_error(ROWS, 4096).axes[0].lines


def test_curves_over_training():
    history = np.array([0.25, 0.5, np.nan]), np.array([10.0, 20.0, np.nan])
    figure = plot_usage_history({"a": history, "b": history}, 64, 500_000)
    render(figure)
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [0.5, 1.0, 1.5])
    np.testing.assert_allclose(line.get_ydata(), [25, 50, np.nan])
    assert {"a", "b", "codes in use, % of 64"} <= set(texts(figure))


def test_no_window_was_over():
    empty = np.zeros(0), np.zeros(0)
    render(plot_usage_history({"a": empty}, 64, 100))


def test_prefixes():
    figure = plot_prefix_psnr({"rvq_4": np.array([1.0, 2, 3, 4]), "rvq_dropout": np.array([2.0, 3])})
    render(figure)
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [4, 2]
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--"]


def test_too_many_lines():
    curve, names = np.zeros(2), [str(i) for i in range(8)]
    with pytest.raises(ValueError, match="8 lines in one figure"):
        plot_prefix_psnr(dict.fromkeys(names, curve))
    with pytest.raises(ValueError, match="8 lines in one figure"):
        plot_usage_history(dict.fromkeys(names, (curve, curve)), 4, 1)
