import jax
import numpy as np
import pytest

from jaxtok.inspect import flip_influence, flips, plot_flip_influence
from tests.inspect.rendering import render, texts


def decode(codes):
    """Pixel (n, q) shows slot q of token n: black for 0, white for 1."""
    return codes[..., None].astype(np.float32) * 2 - 1


def test_each_slot_moves_its_own_pixel():
    codes = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(np.int32)
    influence = flip_influence(decode, codes, batch_size=5)
    np.testing.assert_array_equal(influence.image[..., 0], codes * 255)
    expected = 255 * np.einsum("nh,qw->nqhw", np.eye(3), np.eye(4))
    np.testing.assert_array_equal(influence.change, expected)
    np.testing.assert_allclose(influence.strength, 255 / 12, rtol=1e-6)


def test_larger_alphabets_take_the_next_value():
    seen = []

    def record(codes):
        seen.append(codes.copy())
        return np.zeros((len(codes), 2, 2, 1), np.uint8)

    flip_influence(record, np.array([[2, 0]], np.int32), levels=(3, 2))
    np.testing.assert_array_equal(seen[0], [[[2, 0]], [[0, 0]], [[2, 1]]])


def test_a_jitted_decoder_compiles_once():
    traces = []

    @jax.jit
    def jitted(codes):
        traces.append(codes.shape)
        return decode(codes)

    flip_influence(jitted, np.zeros((3, 3), np.int32), batch_size=4)
    assert traces == [(4, 3, 3)]


def test_figure_shows_slots_or_averages(monkeypatch):
    influence = flip_influence(decode, np.zeros((3, 4), np.int32))
    figure = plot_flip_influence(influence)
    render(figure)
    assert {"token 0", "token 2", "slot 3", "grey levels"} <= set(texts(figure))
    monkeypatch.setattr(flips, "_MOST_TOKENS", 2)
    figure = plot_flip_influence(influence, columns=2)
    render(figure)
    assert {"tokens 0 to 1", "token 2"} <= set(texts(figure))


def test_nothing_changes_is_still_a_figure():
    constant = lambda codes: np.zeros((len(codes), 4, 4, 1), np.uint8)
    render(plot_flip_influence(flip_influence(constant, np.zeros((2, 2), np.int32))))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"pass space\.levels"):
        flip_influence(decode, np.full((2, 2), 5, np.int32))
    with pytest.raises(ValueError, match="3 levels for 2 slots"):
        flip_influence(decode, np.zeros((2, 2), np.int32), levels=(2, 2, 2))
    with pytest.raises(ValueError, match="decode returned shape"):
        flip_influence(lambda codes: np.zeros((3, 3)), np.zeros((2, 2), np.int32))
