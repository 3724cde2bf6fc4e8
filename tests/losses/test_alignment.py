"""Alignment with frozen features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.alignment import alignment_loss, resample

loss = jax.jit(alignment_loss)


def test_extremes_and_scale():
    x, y = np.random.default_rng(0).standard_normal((2, 2, 3, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(loss(x, 5 * x), 0, atol=1e-6)
    np.testing.assert_allclose(loss(x, -x), 2, atol=1e-6)
    a, b = np.asarray(x), np.asarray(y)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(loss(x, y), 1 - cosine.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(x.reshape(2, 9, 4), y.reshape(2, 9, 4)), loss(x, y), rtol=1e-6)


def test_features_are_resampled_to_the_grid_of_the_tokens():
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[None, :, None, None], (1, 4, 4, 2))
    halves = np.asarray(jax.jit(resample, static_argnums=1)(ramp, (2, 4)))
    assert halves.shape == (1, 2, 4, 2)
    assert 0 < halves[0, 0, 0, 0] < 1.5 < halves[0, 1, 0, 0] < 3
    direction = np.asarray([3, -4], np.float32)
    tokens, features = (jnp.asarray(np.broadcast_to(direction, (2, *grid, 2))) for grid in ((2, 2), (7, 5)))
    np.testing.assert_allclose(loss(tokens, features), 0, atol=1e-6)
    assert resample(features, (7, 5)) is features


def test_gradients_reach_the_tokens_only_and_are_finite_at_zero():
    x, y = np.random.default_rng(0).standard_normal((2, 1, 4, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(alignment_loss, argnums=(0, 1)))
    gx, gy = jax.device_get(gradient(x, y))
    assert np.abs(gx).max() > 0 and (gy == 0).all()
    np.testing.assert_allclose(np.sum(gx * x, axis=-1), 0, atol=1e-6)  # only the direction matters
    assert np.isfinite(gradient(np.zeros_like(x), y)[0]).all()


def test_mismatches_are_errors():
    with pytest.raises(ValueError, match="same rank and width"):
        alignment_loss(jnp.ones((1, 4, 3)), jnp.ones((1, 2, 2, 3)))
