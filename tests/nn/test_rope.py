import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.rope import apply_rope, grid_coordinates, rope_tables
from tests.filled import normal

DIMS = (4, 6, 6)


HEADS = np.asarray(normal(2, 5, 3, sum(DIMS)))
POSITIONS = np.asarray(3 * normal(5, 3, seed=1))


@functools.partial(jax.jit, static_argnums=2)
def _turn(x, positions, layout):
    return apply_rope(x, rope_tables(positions, DIMS, layout=layout))


def turn(x, positions, layout):
    return np.asarray(_turn(x, positions, layout))


def scores(positions, layout):
    turned = turn(HEADS, positions, layout)
    return np.einsum("bnhd,bmhd->bhnm", turned, turned)


def permutation():
    """Channel of the "half" layout that is channel j of the "interleaved" one."""
    planes = sum(DIMS) // 2
    return np.stack([np.arange(planes), np.arange(planes) + planes], axis=-1).reshape(-1)


def length(x):
    return np.linalg.norm(x, axis=-1)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_it_is_a_rotation_that_sees_only_differences(layout):
    np.testing.assert_allclose(length(turn(HEADS, POSITIONS, layout)), length(HEADS), rtol=1e-5)
    shifted = scores(POSITIONS + np.array([3.0, -1.5, 0.25], np.float32), layout)
    np.testing.assert_allclose(scores(POSITIONS, layout), shifted, atol=1e-4)
    assert np.abs(scores(2 * POSITIONS, layout) - shifted).max() > 0.1


def test_the_two_rotations_differ_by_a_permutation_of_channels():
    order = permutation()
    half = turn(HEADS, POSITIONS, "half")
    np.testing.assert_allclose(half[..., order], turn(HEADS[..., order], POSITIONS, "interleaved"), atol=1e-6)


def test_the_instella_layout_is_something_else_and_no_rotation():
    turned = turn(HEADS, POSITIONS, "instella")
    # By hand: tables repeated consecutively, partners half a head apart.
    rates = np.concatenate([10_000.0 ** (-np.arange(0, d, 2) / d) for d in DIMS])
    axis = np.repeat(np.arange(3), [d // 2 for d in DIMS])
    angle = np.repeat(POSITIONS[:, axis] * rates, 2, axis=-1)[:, None]
    first, second = np.split(HEADS, 2, axis=-1)
    by_hand = HEADS * np.cos(angle) + np.concatenate([-second, first], -1) * np.sin(angle)
    np.testing.assert_allclose(turned, by_hand, atol=1e-5)
    assert np.abs(length(turned) - length(HEADS)).max() > 0.1


def test_the_dtype_of_queries_is_kept():
    assert (
        jax.eval_shape(lambda x: _turn(x, POSITIONS, "half"), HEADS.astype(jnp.bfloat16)).dtype
        == jnp.bfloat16
    )


def test_corners_have_the_same_coordinates_at_every_resolution():
    corners = [[0, 0], [0, 63], [63, 0], [63, 63]]
    for height, width in ((2, 2), (16, 3), (50, 7)):
        cells = np.asarray(grid_coordinates(height, width, 64)).reshape(height, width, 2)
        np.testing.assert_array_equal(cells[[0, 0, -1, -1], [0, -1, 0, -1]], corners)
    np.testing.assert_array_equal(grid_coordinates(1, 2, 64), [[0, 0], [0, 63]])
    np.testing.assert_array_equal(grid_coordinates(2, 3), [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])


@pytest.mark.parametrize("dims, message", [((16,), "3 axes"), ((5, 5, 6), "even number of channels")])
def test_mistakes_are_named(dims, message):
    with pytest.raises(ValueError, match=message):
        rope_tables(jnp.asarray(POSITIONS), dims)
