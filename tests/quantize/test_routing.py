import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.quantize.routing import directional, masked, masked_mean, rotation_trick, straight_through
from tests.filled import normal

Z, Q = normal(5, 4), normal(5, 4, seed=1)
JACOBIAN = jax.jit(jax.jacrev(rotation_trick))


@pytest.mark.parametrize("router", [straight_through, rotation_trick])
def test_the_value_is_the_code_to_the_bit_and_the_code_gets_no_gradient(router):
    run = lambda q: (router(Z, q), jax.grad(lambda q: jnp.sum(jnp.sin(router(Z, q))))(q))
    values, gradient = jax.jit(run)(Q)
    np.testing.assert_array_equal(values, Q)
    np.testing.assert_array_equal(gradient, 0)


@given(seed=st.integers(0, 100), width=st.integers(2, 6))
def test_the_rotation_turns_the_feature_into_its_code_and_keeps_angles(seed, width):
    z, q = normal(width, seed=seed), normal(width, seed=seed + 1000)
    jacobian = np.asarray(JACOBIAN(z, q), np.float64)
    length = float(np.linalg.norm(q) / np.linalg.norm(z))
    np.testing.assert_allclose(jacobian @ np.asarray(z), q, atol=1e-4)
    np.testing.assert_allclose(jacobian @ jacobian.T, length**2 * np.eye(width), atol=1e-4 * length**2)


def test_without_noise_the_directional_value_is_the_code():
    np.testing.assert_allclose(directional(Z, Q, jnp.zeros_like(Z)), Q, atol=1e-6)


def test_directional_gradients_by_hand():
    noise, upstream = normal(5, 4, seed=2), normal(5, 4, seed=3)
    weigh = lambda z, q: jnp.vdot(directional(z, q, noise, 0.1), upstream)
    by_z, by_q = jax.jit(jax.grad(weigh, (0, 1)))(Z, Q)
    error = np.asarray(Q - Z, np.float64)
    towards = error + 0.1**0.5 * np.asarray(noise)
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    unit = error / np.linalg.norm(error, axis=-1, keepdims=True)
    along = (towards * np.asarray(upstream)).sum(-1, keepdims=True) * unit  # through the length |q - z|
    np.testing.assert_allclose(by_q, along, atol=1e-5)
    np.testing.assert_allclose(by_z, upstream - along, atol=1e-5)


def test_means_and_values_leave_padding_out():
    mask = jnp.asarray([True, False, True, True, False])
    np.testing.assert_allclose(masked_mean(Z, mask), np.asarray(Z)[np.asarray(mask)].mean(), atol=1e-6)
    assert masked_mean(Z, jnp.zeros(5, bool)) == 0
    assert not np.asarray(masked(Z, mask))[~np.asarray(mask)].any()
