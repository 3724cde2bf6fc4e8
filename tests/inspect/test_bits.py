import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.inspect import plot_bit_correlation, plot_bit_usage, plot_code_usage
from tests.inspect.rendering import render, texts


def statistics_of(levels, tokens, seed=0, images=40):
    rng = np.random.default_rng(seed)
    statistics = CodeStatistics(CodeSpace(levels), tokens)
    statistics.update(rng.integers(0, levels, (images, tokens, len(levels))).astype(np.int32))
    return statistics


@pytest.mark.parametrize(("slots", "tokens"), [(1, 1), (4, 8), (16, 70)])
def test_bit_usage_shows_the_balance(slots, tokens):
    statistics = statistics_of((2,) * slots, tokens)
    figure = plot_bit_usage(statistics)
    render(figure)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), statistics.bit_balance())
    assert len(figure.axes[1].patches) == tokens
    assert any(text.endswith(f"of {slots} bits") for text in texts(figure))


@pytest.mark.parametrize(("slots", "tokens"), [(1, 1), (3, 4), (64, 40)])
def test_bit_correlation(slots, tokens):
    statistics = statistics_of((2,) * slots, tokens)
    figure = plot_bit_correlation(statistics)
    render(figure)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), statistics.bit_correlation())
    # Samples are images, or tokens where pairs are counted inside tokens only.
    assert statistics.pair_rows == (40 if slots * tokens <= 2048 else 40 * tokens)


@pytest.mark.parametrize("levels", [(16, 16), (300,), (8,) * 12])
def test_code_usage_draws_one_line_per_slot(levels):
    statistics = statistics_of(levels, 3)
    figure = plot_code_usage(statistics)
    render(figure)
    lines = figure.axes[0].lines
    assert len(lines) == len(levels) + 1
    np.testing.assert_allclose(lines[0].get_ydata().sum(), 1)
    assert len(lines[0].get_xdata()) == np.count_nonzero(statistics.slot_counts(0))


def test_other_spaces_have_no_bits():
    with pytest.raises(ValueError, match="needs binary slots"):
        plot_bit_usage(statistics_of((3, 3), 2))
