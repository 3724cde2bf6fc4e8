import numpy as np
import pytest

from jaxtok.inspect.plane import plot_plane
from tests.inspect.rendering import render, texts


def halves(points):
    """Two codes: left and right of 0, at -1 and 1 on the first axis."""
    right = np.asarray(points)[:, :1] > 0
    return right.astype(np.int32), np.concatenate([2.0 * right - 1, 0.0 * right], axis=1)


def test_cells_values_and_error():
    points = np.array([[1.5, 0.0], [-1.0, 0.5]], np.float32)
    figure = plot_plane({"halves": halves, "again": halves}, points, extent=2)
    assert render(figure).std() > 5
    axes = figure.axes[0]
    cells = axes.images[0].get_array()
    assert len(np.unique(cells.reshape(-1, 3), axis=0)) == 2
    assert (cells[:, :80] == cells[0, 0]).all() and (cells[:, 81:] == cells[0, -1]).all()
    crosses = axes.collections[-1].get_offsets()
    np.testing.assert_allclose(np.sort(crosses[:, 0]), [-1, 1])
    assert "halves\nmean squared error 0.125" in texts(figure)  # (0.25 + 0.25) / 4
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_plane({})


def test_arrows_of_one_panel():
    where = np.array([[0.5, 0.5], [-0.5, 0.5]], np.float32)
    figure = plot_plane({"a": halves, "b": halves}, arrows={"b": (where, -where)})
    render(figure)
    assert [len(axes.collections) for axes in figure.axes] == [1, 2]
    arrows = figure.axes[1].collections[-1]
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], axis=1), -where)
