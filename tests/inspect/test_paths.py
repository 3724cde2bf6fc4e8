import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxtok.inspect import bit_path, hamming_matrix, interpolate_bits, plot_hamming, plot_interpolation
from tests.inspect.rendering import render, texts


@hypothesis.given(st.integers(0, 2**31), st.integers(2, 9), st.sampled_from(["random", "tokens"]))
@hypothesis.settings(max_examples=50, deadline=None)
def test_paths_are_shortest_and_even(seed, steps, order):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, (2, 4, 5)).astype(np.int32)
    path = bit_path(a, b, steps, order=order, seed=seed)
    np.testing.assert_array_equal(path[0], a)
    np.testing.assert_array_equal(path[-1], b)
    assert np.all((path == a) | (path == b))
    from_start = (path != a).sum(axis=(1, 2))
    assert np.all(np.abs(from_start - np.linspace(0, from_start[-1], steps)) <= 0.5)
    assert np.all((path[1:] != a) >= (path[:-1] != a)), "a slot that has changed stays changed"


def test_token_order_changes_the_first_tokens_first():
    path = bit_path(np.zeros((2, 2), np.int32), np.ones((2, 2), np.int32), 5, order="tokens")
    np.testing.assert_array_equal(path[2], [[1, 1], [0, 0]])


def test_interpolation_and_its_figure():
    a, b = np.zeros((2, 4), np.int32), np.ones((2, 4), np.int32)
    images = interpolate_bits(lambda codes: codes[..., None] * np.float32(2) - 1, a, b, steps=3)
    np.testing.assert_array_equal(images.mean(axis=(1, 2, 3)), [0, 127.5, 255])
    figure = plot_interpolation(np.stack([images, images]))
    render(figure)
    assert texts(figure).count("path in codes") == 2 and "50 %" in texts(figure)


def test_hamming_matrix():
    codes = np.array([[[0, 0], [0, 0]], [[0, 1], [1, 0]], [[1, 1], [1, 1]]], np.int32)
    np.testing.assert_array_equal(hamming_matrix(codes), [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]])
    np.testing.assert_array_equal(hamming_matrix(codes, codes[:1]), [[0], [0.5], [1]])


@pytest.mark.parametrize("count", [1, 3, 20])
def test_hamming_figure(count):
    rng = np.random.default_rng(0)
    matrix = hamming_matrix(rng.integers(0, 2, (count, 4, 4)).astype(np.int32))
    figure = plot_hamming(matrix, rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8), title="codes")
    render(figure)
    assert (".00" in texts(figure)) == (count <= 16)


def test_bad_input_is_named():
    codes = np.zeros((2, 2), np.int32)
    with pytest.raises(ValueError, match="steps=1"):
        bit_path(codes, codes, 1)
    with pytest.raises(ValueError, match=r"expected \[steps"):
        plot_interpolation(np.zeros((3, 3), np.float32))
