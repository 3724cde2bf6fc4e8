import numpy as np
import pytest

from jaxtok.inspect import RankLine, fit_ranks, plot_zipf
from tests.inspect.rendering import render, texts


def test_exact_power_laws_are_found():
    counts = np.random.default_rng(0).permutation(5000 * np.arange(1, 200) ** -1.2)
    fit = fit_ranks(np.concatenate([counts, np.zeros(50)]))
    assert fit.slope == pytest.approx(-1.2) and np.exp(fit.intercept) == pytest.approx(5000)
    assert fit.r_squared == pytest.approx(1)
    assert fit_ranks(np.full(9, 4)).slope == pytest.approx(0, abs=1e-12)


def test_figure_shows_counts_and_lines():
    figure = plot_zipf(
        {"a": np.array([8, 0, 4, 2]), "b": np.array([5, 5])}, fits={"b": RankLine(-1.0, 2.0, 0.5)}
    )
    render(figure)
    lines = figure.axes[0].lines
    np.testing.assert_array_equal(lines[0].get_ydata(), [8, 4, 2])
    np.testing.assert_allclose(lines[3].get_ydata(), np.exp([2.0, 2.0 - np.log(2)]))
    assert "b: slope -1.00, R² 0.50" in texts(figure)
    render(plot_zipf(np.array([3, 2, 1])))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="1 codes occur"):
        fit_ranks(np.array([0, 3]))
    with pytest.raises(ValueError, match="8 lines"):
        plot_zipf({str(i): np.ones(3) for i in range(8)})
