import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.patches import average_pool, nearest_upsample
from jaxtok.nn.resampling import DCDown, DCUp
from tests.filled import filled, normal

GRID = normal(2, 4, 6, 8)


@jax.jit
def resample(down, up):
    """Outputs of both blocks, and down(up(x))."""
    upsampled = DCUp().apply(up, GRID)
    return (
        DCDown().apply(down, GRID),
        upsampled,
        DCDown().apply(down, upsampled),
        average_pool(GRID),
        nearest_upsample(GRID),
    )


@pytest.fixture(scope="module")
def parameters():
    return filled(DCDown(), GRID), filled(DCUp(), GRID)


def test_with_zero_convolutions_only_the_shortcuts_are_left(parameters):
    down, up, back, pooled, nearest = resample(*jax.tree.map(np.zeros_like, parameters))
    np.testing.assert_allclose(down, pooled, atol=1e-6)
    np.testing.assert_array_equal(up, nearest)
    np.testing.assert_allclose(back, GRID, atol=1e-6)


def test_the_convolutions_add_to_the_shortcuts(parameters):
    down, up, back, pooled, nearest = map(np.asarray, resample(*parameters))
    assert (down.shape, up.shape, back.shape) == ((2, 2, 3, 8), (2, 8, 12, 8), GRID.shape)
    assert np.abs(down - pooled).mean() > 0.1 and np.abs(up - nearest).mean() > 0.1


def test_an_odd_grid_cannot_be_halved():
    with pytest.raises(ValueError, match="3x4 cells cannot be halved"):
        DCDown().apply({}, jnp.zeros((1, 3, 4, 8)))
