import numpy as np
import pytest

from jaxtok.inspect import plot_codes
from tests.inspect.rendering import render, texts


def codes_of(tokens, slots, level=2, seed=0):
    return np.random.default_rng(seed).integers(0, level, (tokens, slots)).astype(np.int32)


@pytest.mark.parametrize(("tokens", "slots", "level"), [(1, 1, 2), (8, 16, 2), (5, 3, 300)])
def test_every_value_stands_in_its_cell(tokens, slots, level):
    codes = codes_of(tokens, slots, level)
    figure = plot_codes(codes, levels=(level,) * slots)
    render(figure)
    written = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert written == {(s, t): str(codes[t, s]) for t in range(tokens) for s in range(slots)}
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), codes / (level - 1))


def test_frames_mark_the_differences():
    codes, other = codes_of(8, 16), codes_of(8, 16)
    other[[2, 7], [3, 15]] ^= 1
    figure = plot_codes(codes, other)
    render(figure)
    frames = {(round(patch.get_x()), round(patch.get_y())) for patch in figure.axes[0].patches}
    assert frames == {(3, 2), (15, 7)}
    assert "2 of 128 codes differ" in texts(figure)


def test_large_codes_are_drawn_without_numbers():
    figure = plot_codes(codes_of(128, 64))
    render(figure)
    assert not figure.axes[0].texts


def test_wrong_shapes():
    with pytest.raises(ValueError, match="3 slots"):
        plot_codes(codes_of(2, 3), levels=(2, 2))
    with pytest.raises(ValueError, match="must be equal"):
        plot_codes(codes_of(2, 3), codes_of(3, 2))
