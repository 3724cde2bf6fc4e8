import numpy as np
import pytest

from jaxtok.inspect import (
    interpolate_values,
    nearest_codes,
    plot_neighbours,
    plot_traversal,
    principal_directions,
    traverse_code,
    traverse_values,
)
from tests.inspect.rendering import contains, render, texts


def test_a_code_takes_all_its_values():
    codes, seen = np.array([[1, 0], [2, 1]], np.int32), []

    def decode(codes):
        seen.append(codes.copy())
        return np.zeros((len(codes), 2, 2, 1), np.uint8)

    values, images = traverse_code(decode, codes, 1, 0, levels=(4, 2))
    np.testing.assert_array_equal(values, range(4))
    np.testing.assert_array_equal(seen[0], [[[1, 0], [value, 1]] for value in range(4)])
    assert images.shape == (4, 2, 2, 1) and images.dtype == np.float32
    values, _ = traverse_code(decode, np.array([[517]]), 0, levels=(1000,), most=5)
    assert len(values) == 5 and {0, 517, 999} <= set(values.tolist())
    with pytest.raises(ValueError, match="token 2"):
        traverse_code(decode, codes, 2, levels=(4, 2))


def test_lines_and_arcs():
    a, b = np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]])
    line, arc = (interpolate_values(a, b, 3, along=along) for along in ("line", "sphere"))
    np.testing.assert_allclose(line, [a, [[1, 2]], b])
    np.testing.assert_allclose(arc, [a, [[3 / np.sqrt(2)] * 2], b], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(interpolate_values(a, 2 * a, 3, along="sphere"), [a, 1.5 * a, 2 * a])
    with pytest.raises(ValueError, match="steps=1"):
        interpolate_values(a, b, 1)


def test_directions_of_most_variance():
    rows = np.random.default_rng(0).standard_normal((2000, 6)) * [5, 0.1, 0.1, 1, 0.1, 0.1]
    directions, shares = principal_directions(rows.reshape(2000, 2, 3), 2)
    np.testing.assert_allclose(np.abs(directions[0]), [[5, 0, 0], [0, 0, 0]], atol=0.3)
    np.testing.assert_allclose(np.abs(directions[1]), [[0, 0, 0], [1, 0, 0]], atol=0.1)
    np.testing.assert_allclose(shares, [25 / 26.04, 1 / 26.04], atol=0.01)
    with pytest.raises(ValueError, match="at most 6"):
        principal_directions(rows.reshape(2000, 2, 3), 7)

    images = traverse_values(
        lambda z: z[..., None] / 10, np.zeros((2, 3)), directions, [-1, 0, 1], batch_size=4
    )
    assert images.shape == (2, 3, 2, 3, 1)
    np.testing.assert_allclose(images[:, 1], 127.5)
    np.testing.assert_allclose(images[:, 0] + images[:, 2], 255, rtol=1e-5)
    figure = plot_traversal(images, row_labels=["first", "second"], column_labels=["-1", "0", "1"])
    render(figure)
    assert {"first", "second", "-1"} <= set(texts(figure))


def test_neighbours_are_those_with_the_most_equal_codes(monkeypatch):
    monkeypatch.setattr("jaxtok.inspect.neighbours._AT_ONCE", 7)  # one image at a time
    rng = np.random.default_rng(0)
    bank = rng.integers(0, 4, (20, 3, 2)).astype(np.int32)
    asked = bank[[4, 9]].copy()
    asked[1, 0, 0] = (asked[1, 0, 0] + 1) % 4
    found, distances = nearest_codes(asked, bank, 5)
    assert found[0, 0] == 4 and found[1, 0] == 9
    np.testing.assert_allclose(distances[:, 0], [0, 1 / 6])
    assert (np.diff(distances, axis=1) >= 0).all()
    pictures = rng.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    shown = render(plot_neighbours(pictures[[4, 9]], pictures, found))
    large = pictures[found[1, 4]].repeat(18, 0).repeat(18, 1)
    assert contains(shown, np.broadcast_to(large, (72, 72, 3)))
    with pytest.raises(ValueError, match="count=21"):
        nearest_codes(asked, bank, 21)
    with pytest.raises(ValueError, match="2 rows of neighbours for 1"):
        plot_neighbours(pictures[:1], pictures, found)
