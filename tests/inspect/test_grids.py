import subprocess
import sys

import numpy as np
import pytest

from jaxtok.inspect import prefix_ladder, prefix_lengths, reconstruction_grid, sample_grid, tokenizer_grid
from tests.inspect.rendering import contains, render, texts


def enlarged(picture, factor):
    return np.broadcast_to(picture.repeat(factor, 0).repeat(factor, 1), (8 * factor, 8 * factor, 3))


def test_reconstruction_grid_is_crisp_and_labelled(pictures):
    figure = reconstruction_grid(
        pictures, pictures[::-1].copy(), columns=3, labels=list("abcdef"), title="step 7"
    )
    shown = render(figure)
    for picture in pictures[:3]:
        assert contains(shown, enlarged(picture, 9)), "every source pixel must be one exact square"
    assert not contains(shown, enlarged(pictures[3] * 0 + 77, 9))
    assert {"original", "reconstruction", "absolute error", "step 7", "a", "b", "c", "grey levels"} <= set(
        texts(figure)
    )
    assert sum("dB" in text for text in texts(figure)) == 3


def test_equal_images_have_a_black_error_map(pictures):
    shown = render(reconstruction_grid(pictures, pictures, columns=2))
    from matplotlib import colormaps

    zero = np.array(colormaps["magma"](0.0, bytes=True)[:3], np.uint8)
    assert contains(shown, np.broadcast_to(zero, (72, 72, 3)))


def test_several_reconstructions_are_named(pictures):
    figure = reconstruction_grid(pictures, {"vq": pictures, "binary": 255 - pictures})
    assert any(text.startswith("vq\n100.0 dB") for text in texts(figure))
    assert any(text.startswith("binary\n") for text in texts(figure))


def test_tokenizers_side_by_side_spend_equal_bits(pictures):
    figure = tokenizer_grid(pictures, {"vq": (pictures, 128.0), "fsq": (255 - pictures, 127.5)})
    rows = [text for text in texts(figure) if "bits" in text]
    assert [row.split("\n")[0] for row in rows] == ["fsq, 127.5 bits", "vq, 128 bits"]
    unlike = {"vq": (pictures, 128), "large": (pictures, 256)}
    with pytest.raises(ValueError, match="bits per image differ"):
        tokenizer_grid(pictures, unlike)
    assert any("256 bits" in text for text in texts(tokenizer_grid(pictures, unlike, equal_bits=False)))


def test_floats_and_colour_are_accepted(pictures):
    colour = np.repeat(pictures, 3, axis=3)
    render(reconstruction_grid(colour.astype(np.float32) / 127.5 - 1, colour / np.float32(127.5) - 1))


def test_sample_grid_by_caption(pictures):
    captions = ["a handwritten seven", "costs $5 and $6, a long caption that needs two lines"]
    figure = sample_grid(pictures, captions)
    shown = render(figure)  # dollar signs must not be read as mathematics
    assert all(contains(shown, enlarged(picture, 9)) for picture in pictures)
    assert "a handwritten seven" in texts(figure)
    by_row = sample_grid(pictures.reshape(2, 3, 8, 8, 1), captions)
    np.testing.assert_array_equal(render(by_row), shown)


def test_sample_grid_without_captions_fills_the_last_row(pictures):
    shown = render(sample_grid(pictures[:5], columns=4))
    assert all(contains(shown, enlarged(picture, 9)) for picture in pictures[:5])


def test_prefix_ladder_orders_by_length(pictures):
    figure = prefix_ladder(pictures, {4: pictures, 1: 255 - pictures})
    render(figure)
    rows = [text for text in texts(figure) if "token" in text or text == "original"]
    assert [row.split("\n")[0] for row in rows] == ["1 token", "4 tokens", "original"]


def test_prefix_lengths():
    assert [prefix_lengths(tokens) for tokens in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


def test_large_images_are_reduced():
    images = np.zeros((2, 600, 600, 3), np.uint8)
    width, _ = sample_grid(images).get_size_inches()
    assert width < 2 * 256 / 100 + 1


def test_bad_input_is_named(pictures):
    with pytest.raises(ValueError, match="'reconstruction' has shape"):
        reconstruction_grid(pictures, pictures[:, :4])
    with pytest.raises(ValueError, match="nothing to draw"):
        reconstruction_grid(pictures[:0], pictures[:0])
    with pytest.raises(ValueError, match="do not divide over 4 captions"):
        sample_grid(pictures, list("abcd"))
    with pytest.raises(ValueError, match="2 tokens: shape"):
        prefix_ladder(pictures, {2: pictures[:2]})
    with pytest.raises(ValueError, match="1 or 3 channels"):
        sample_grid(np.zeros((2, 8, 8, 2), np.uint8))


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np; from jaxtok.inspect import *; from jaxtok.inspect import sample_grid;"
        "sample_grid(np.zeros((2, 8, 8, 1), np.uint8)); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
