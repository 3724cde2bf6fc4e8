import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.inspect import gradient_influence, plot_token_maps
from tests.inspect.rendering import contains, render, texts


def test_maps_are_enlarged_over_the_image():
    maps = np.zeros((3, 2, 2), np.float32)
    maps[0, 0, 1] = 1.0
    image = np.full((8, 8, 1), 200, np.uint8)
    figure = plot_token_maps(maps, image, columns=2, unit="amount")
    shown = render(figure)
    assert contains(shown, np.full((64, 64, 3), 200, np.uint8))
    quarter = np.full((32, 32, 3), shown.max(), np.uint8)
    bright = (shown[..., 0] > 240) & (shown[..., 2] < 210)
    assert bright.sum() >= quarter[..., 0].size, "one quarter of the first map is bright"
    assert {"image", "tokens 0 to 1", "token 2", "amount"} <= set(texts(figure))


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_token_maps(np.zeros((0, 2, 2)))
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_token_maps(np.zeros((1, 2, 2)), overlay=True)


@pytest.mark.parametrize("directions", [8, 2000])
def test_gradients_of_a_linear_decoder(directions):
    width = 8 if directions == 8 else 40
    matrix = (
        np.random.default_rng(0).standard_normal((4, 2, 1, 3, width)).astype(np.float32) * 0.01
    )  # H, W, C, N, D
    matrix[..., 1, :] = 0
    decode = lambda z: jnp.einsum("hwcnd,bnd->bhwc", matrix, z)
    influence = gradient_influence(decode, np.zeros((3, width)), step=2.0, directions=directions)
    expected = 2 * 127.5 * np.sqrt(np.square(matrix).mean(axis=(2, 4)))
    np.testing.assert_allclose(
        influence.change, expected.transpose(2, 0, 1), rtol=1e-5 if width == 8 else 0.2
    )
    assert influence.strength[1] == 0 and influence.strength[0] > 0
    np.testing.assert_allclose(influence.image, 127.5)
