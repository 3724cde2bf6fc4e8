import numpy as np
import pytest

from jaxtok.inspect import (
    cooccurrence,
    mutual_information,
    plot_cooccurrence,
    plot_position_information,
    position_information,
)
from tests.inspect.rendering import render, texts

CODES = np.array([[0, 1, 1], [2, 0, 1]], np.int32)


def test_pairs_are_counted():
    np.testing.assert_array_equal(cooccurrence(CODES, 3, (0, 2)), [[0, 1, 0], [0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(cooccurrence(CODES, 3, 1), [[0, 2, 0], [0, 1, 0], [1, 0, 0]])
    every = cooccurrence(CODES, 3)
    np.testing.assert_array_equal(every, every.T)
    expected = np.zeros((3, 3), int)
    for row in CODES:
        for i in range(3):
            for j in range(3):
                expected[row[i], row[j]] += i != j
    np.testing.assert_array_equal(every, expected)


def test_information():
    assert mutual_information(np.eye(4, dtype=np.int64) * 5, corrected=False) == pytest.approx(2)
    assert mutual_information(np.ones((4, 4), np.int64), corrected=False) == pytest.approx(0)
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 8, (2, 4000))
    matrix = position_information(np.stack([first, other, first + 1000], axis=1))
    np.testing.assert_allclose(matrix, [[3, 0, 3], [0, 3, 0], [3, 0, 3]], atol=0.02)
    uncorrected = position_information(np.stack([first, other], axis=1), corrected=False)
    assert uncorrected[0, 1] > matrix[0, 1], "the plug-in estimate is biased upwards"


def test_figures():
    counts = cooccurrence(CODES, 50)
    figure = plot_cooccurrence(counts, most=2)
    render(figure)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (2, 2) and {"0", "1"} <= set(texts(figure))
    joint, rows = counts[1, 1] / counts.sum(), counts.sum(axis=1) / counts.sum()
    assert shown[0, 0] == pytest.approx(np.log2(joint / rows[1] ** 2))
    render(plot_cooccurrence(np.eye(100, dtype=np.int64), most=50))
    for grid in (None, (1, 3)):
        render(plot_position_information(position_information(CODES), grid=grid))
    render(plot_position_information(np.ones((1, 1))))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="outside an alphabet of 2"):
        cooccurrence(CODES, 2)
    for positions in ((0, 3), (-1, 0), 3, 0):
        with pytest.raises(ValueError, match="do not lie"):
            cooccurrence(CODES, 3, positions)
    with pytest.raises(ValueError, match="no pair"):
        plot_cooccurrence(np.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match="4 cells for 3 tokens"):
        plot_position_information(np.eye(3), grid=(2, 2))
