"""Resampling of grids by one matrix per axis."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.quantize.resampling import averages, interpolation, pool, resize, shares
from tests.filled import normal

sizes = st.integers(1, 24)


@given(source=sizes, target=sizes)
def test_averages_are_means_that_cover_every_cell(source, target):
    matrix = averages(source, target)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
    assert (matrix >= 0).all()
    if target <= source:
        assert (matrix.sum(axis=0) > 0).all()  # no feature is lost
    if source % target == 0:
        np.testing.assert_allclose(matrix.sum(axis=0), target / source, rtol=1e-5)  # and all weigh alike


@given(source=sizes, target=sizes, kind=st.sampled_from(["cubic", "linear"]))
def test_interpolation_keeps_constants_symmetry_and_size(source, target, kind):
    matrix = interpolation(source, target, kind)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(interpolation(source, source, kind), np.eye(source), atol=1e-6)


def test_linear_interpolation_follows_a_ramp_between_the_centres():
    ramp = interpolation(4, 12, "linear") @ np.arange(4.0)
    np.testing.assert_allclose(ramp[1:-1], np.clip((np.arange(1, 11) + 0.5) / 3 - 0.5, 0, 3), atol=1e-6)


def test_every_axis_has_its_own_matrix():
    x = normal(2, 4, 6, 3)
    coarse = resize(x, (averages(4, 2), averages(6, 3)))
    np.testing.assert_allclose(coarse, x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4)), atol=1e-6)
    same = resize(x, (averages(4, 4), averages(6, 6)))
    np.testing.assert_array_equal(same, x)


def test_a_cell_is_the_mean_of_its_real_features():
    x, mask = normal(1, 4, 4, 3), jnp.ones((1, 4, 4), bool).at[0, :2, :2].set(False).at[0, 3, 3].set(False)
    cells, real = pool(jnp.where(mask[..., None], x, jnp.nan), (2, 2), mask)
    np.testing.assert_array_equal(real[0], [False, True, True, True])
    np.testing.assert_array_equal(cells[0, 0], 0)
    last = jnp.stack([x[0, 2, 2], x[0, 2, 3], x[0, 3, 2]]).mean(0)
    np.testing.assert_allclose(cells[0, 3], last, atol=1e-6)
    np.testing.assert_allclose(shares(mask, (2, 2))[0], [0, 1, 1, 0.75])


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="choose 'cubic' or 'linear'"):
        interpolation(2, 4, "nearest")  # pyright: ignore
