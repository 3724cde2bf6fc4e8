"""Pixel losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.losses import reconstruction

X = jnp.asarray([[0.0, 0.5], [-3.0, 1.0]])
Y = jnp.asarray([[0.25, 0.5], [1.0, 0.0]])  # differences 0.25, 0, 4, 1


def test_values():
    np.testing.assert_allclose(reconstruction.l1(X, Y), 5.25 / 4)
    np.testing.assert_allclose(reconstruction.l2(X, Y), 17.0625 / 4)
    np.testing.assert_allclose(reconstruction.smooth_l1(X, Y), (0.03125 + 0 + 3.5 + 0.5) / 4)
    np.testing.assert_allclose(reconstruction.smooth_l1(X, Y, beta=2.0), (0.015625 + 0 + 3.0 + 0.25) / 4)


@given(st.floats(0.1, 3.0), st.integers(0, 1000))
def test_smooth_l1_is_between_its_branches_and_has_a_bounded_gradient(beta, seed):
    x, y = np.random.default_rng(seed).normal(scale=2, size=(2, 3, 4)).astype(np.float32)
    x, y = jnp.asarray(x), jnp.asarray(y)
    loss, gradient = jax.value_and_grad(reconstruction.smooth_l1)(x, y, beta)
    assert reconstruction.l1(x, y) - beta / 2 <= loss + 1e-6
    assert loss <= reconstruction.l2(x, y) / (2 * beta) + 1e-6
    assert jnp.abs(gradient).max() * x.size <= 1 + 1e-5


def test_losses_are_float32_of_the_inputs():
    x, y = X.astype(jnp.bfloat16) + 100, Y.astype(jnp.bfloat16)
    for loss in (reconstruction.l1, reconstruction.l2, reconstruction.smooth_l1):
        value = loss(x, y)
        assert value.dtype == jnp.float32
        assert value == loss(x.astype(jnp.float32), y.astype(jnp.float32))


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match="beta > 0"):
        reconstruction.smooth_l1(X, Y, beta=0.0)
