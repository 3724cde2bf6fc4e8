"""Alignment with frozen features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.alignment import alignment_loss, resample


def test_extremes_and_scale():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    np.testing.assert_allclose(alignment_loss(x, 5 * x), 0, atol=1e-6)
    np.testing.assert_allclose(alignment_loss(x, -x), 2, atol=1e-6)
    y = jax.random.normal(jax.random.key(1), x.shape)
    a, b = np.asarray(x), np.asarray(y)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(alignment_loss(x, y), 1 - cosine.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        alignment_loss(x.reshape(2, 9, 4), y.reshape(2, 9, 4)), alignment_loss(x, y), rtol=1e-6
    )


def test_features_are_resampled_to_the_grid_of_the_tokens():
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None], (1, 4, 4, 2))
    halves = resample(ramp, (2, 4))
    assert halves.shape == (1, 2, 4, 2)
    assert 0 < halves[0, 0, 0, 0] < 1.5 < halves[0, 1, 0, 0] < 3
    direction = jnp.asarray([3.0, -4.0])
    tokens, features = jnp.ones((2, 2, 2, 1)) * direction, jnp.ones((2, 7, 5, 1)) * direction
    np.testing.assert_allclose(alignment_loss(tokens, features), 0, atol=1e-6)
    assert resample(features, (7, 5)) is features


def test_gradients_reach_the_tokens_only_and_are_finite_at_zero():
    x, y = jax.random.normal(jax.random.key(0), (2, 1, 4, 3))
    gx, gy = jax.grad(alignment_loss, argnums=(0, 1))(x, y)
    assert jnp.abs(gx).max() > 0 and (gy == 0).all()
    np.testing.assert_allclose(jnp.sum(gx * x, axis=-1), 0, atol=1e-6)  # only the direction matters
    assert jnp.isfinite(jax.grad(alignment_loss)(jnp.zeros_like(x), y)).all()


def test_mismatches_are_errors():
    with pytest.raises(ValueError, match="same rank and width"):
        alignment_loss(jnp.ones((1, 4, 3)), jnp.ones((1, 2, 2, 3)))
