import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.flow import flow_loss, flow_point, flow_times
from tests.filled import normal

U = jnp.asarray((np.arange(4096) + 0.5) / 4096, jnp.float32)
DATA, NOISE = normal(3, 4, 2), normal(3, 4, 2, seed=1)


@jax.jit
def all_times(u):
    """By distribution, and at both ends."""
    ends = jnp.asarray([0.0, 0.99999994])
    names = ("logit-normal", "uniform", "mode")
    times = {name: flow_times(u, name) for name in names}
    modes = {scale: flow_times(u, "mode", scale) for scale in (1.29, 0.0)}
    return times, modes, {name: flow_times(ends, name) for name in names}


def test_times_have_their_distributions():
    times, modes, at_ends = jax.device_get(all_times(U))
    u = np.asarray(U)
    np.testing.assert_array_equal(times["uniform"], U)
    of_logit = times["logit-normal"]
    logit = np.log(of_logit / (1 - of_logit))  # a standard normal number
    np.testing.assert_allclose([logit.mean(), logit.std()], [0, 1], atol=5e-3)
    mode = modes[1.29]
    np.testing.assert_allclose(mode, 1 - u - 1.29 * (np.cos(np.pi * u / 2) ** 2 - 1 + u), atol=1e-6)
    assert np.all(np.diff(mode) < 0)  # a quantile function, of 1 - u
    np.testing.assert_allclose(modes[0.0], 1 - u, atol=1e-6)
    for distribution, ends in at_ends.items():
        assert np.all((ends >= 0) & (ends <= 1)), distribution
    with pytest.raises(ValueError, match="distribution of times 'normal'; choose"):
        flow_times(U, "normal")
    with pytest.raises(ValueError, match=r"mode_scale=3\.0 must lie"):
        flow_times(U, "mode", 3.0)


def test_stratified_times_fill_every_part_once():
    u = np.random.default_rng(0).random(16, np.float32)
    times = jax.jit(lambda u: flow_times(u, "uniform", stratified=True))(u)
    np.testing.assert_array_equal(np.floor(16 * times), np.arange(16))


def test_points_lie_between_data_and_noise():
    points = jax.jit(flow_point)(DATA, NOISE, jnp.asarray([0.0, 1.0, 0.25]))
    np.testing.assert_array_equal(points[:2], [DATA[0], NOISE[1]])
    np.testing.assert_allclose(points[2], 0.25 * NOISE[2] + 0.75 * DATA[2], atol=1e-6)


def test_the_loss_is_zero_at_the_velocity_and_its_square_elsewhere():
    loss = jax.jit(lambda offset: flow_loss(NOISE - DATA + offset, DATA, NOISE))
    assert loss(0.0) == 0
    np.testing.assert_allclose(loss(3.0), 9, rtol=1e-6)
