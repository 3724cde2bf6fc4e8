import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.flow import flow_loss, flow_point, flow_times
from tests.filled import normal

U = jnp.asarray((np.arange(4096) + 0.5) / 4096, jnp.float32)
DATA, NOISE = normal(3, 4, 2), normal(3, 4, 2, seed=1)


def test_times_have_their_distributions():
    np.testing.assert_array_equal(flow_times(U, "uniform"), U)
    logit = np.log(flow_times(U) / (1 - flow_times(U)))  # a standard normal number
    np.testing.assert_allclose([logit.mean(), logit.std()], [0, 1], atol=5e-3)
    mode = flow_times(U, "mode", 1.29)
    np.testing.assert_allclose(mode, 1 - U - 1.29 * (np.cos(np.pi * U / 2) ** 2 - 1 + U), atol=1e-6)
    assert np.all(np.diff(mode) < 0)  # a quantile function, of 1 - u
    np.testing.assert_allclose(flow_times(U, "mode", 0.0), 1 - U, atol=1e-6)
    for distribution in ("logit-normal", "uniform", "mode"):
        ends = flow_times(jnp.asarray([0.0, 0.99999994]), distribution)
        assert np.all((ends >= 0) & (ends <= 1)), distribution
    with pytest.raises(ValueError, match="distribution of times 'normal'; choose"):
        flow_times(U, "normal")
    with pytest.raises(ValueError, match=r"mode_scale=3\.0 must lie"):
        flow_times(U, "mode", 3.0)


def test_stratified_times_fill_every_part_once():
    times = flow_times(jax.random.uniform(jax.random.key(0), (16,)), "uniform", stratified=True)
    np.testing.assert_array_equal(np.floor(16 * times), np.arange(16))


def test_points_lie_between_data_and_noise():
    points = flow_point(DATA, NOISE, jnp.asarray([0.0, 1.0, 0.25]))
    np.testing.assert_array_equal(points[:2], [DATA[0], NOISE[1]])
    np.testing.assert_allclose(points[2], 0.25 * NOISE[2] + 0.75 * DATA[2], atol=1e-6)


def test_the_loss_is_zero_at_the_velocity_and_its_square_elsewhere():
    assert flow_loss(NOISE - DATA, DATA, NOISE) == 0
    np.testing.assert_allclose(flow_loss(NOISE - DATA + 3, DATA, NOISE), 9, rtol=1e-6)
