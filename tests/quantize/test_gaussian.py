import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.keys import example_keys
from jaxtok.quantize.gaussian import LOG_VARIANCES, GaussianBottleneck, kl_to_standard_normal
from tests.filled import normal

Z = normal(4, 3, 10)
BOTTLENECK = GaussianBottleneck(5, kl_weight=0.5)


def test_the_divergence_is_that_of_samples():
    mean, log_variance = jnp.asarray([0.7, -1.2]), jnp.asarray([0.4, -0.9])
    found = kl_to_standard_normal(mean, log_variance)
    deviation = np.exp(0.5 * np.asarray(log_variance))
    x = np.asarray(mean) + deviation * np.random.default_rng(0).standard_normal((200_000, 2))
    log_ratio = -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation) + 0.5 * x**2
    np.testing.assert_allclose(found, np.sum(log_ratio, -1).mean(), rtol=0.02)
    assert float(kl_to_standard_normal(jnp.zeros(3), jnp.zeros(3))) == 0.0


def test_evaluation_takes_the_means_and_the_loss_sums_over_tokens():

    @jax.jit
    def run(z):
        expected = 0.5 * jnp.mean(jnp.sum(kl_to_standard_normal(z[..., :5], z[..., 5:]), axis=1))
        return BOTTLENECK.apply({}, z), BOTTLENECK.apply({}, z, method="latents"), expected

    out, latents, expected = jax.device_get(run(Z))
    np.testing.assert_array_equal(out.values, Z[..., :5])
    np.testing.assert_array_equal(latents, out.values)
    np.testing.assert_allclose(out.losses["kl"], expected, rtol=1e-6)
    assert out.codes is None and out.statistics == {} and BOTTLENECK.space is None
    assert BOTTLENECK.update({"a": 1}, {}, jax.random.key(0)) == {"a": 1}


def test_training_draws_per_example_with_the_deviation_of_the_features():
    keys, order = example_keys(jax.random.key(0), 4), np.array([2, 0, 3, 1])
    run = jax.jit(lambda z, key: BOTTLENECK.apply({}, z, train=True, key=key))
    out, moved = run(Z, keys), run(Z[order], keys[order])
    np.testing.assert_array_equal(moved.values, np.asarray(out.values)[order])
    many = np.asarray(run(jnp.tile(Z[:1], (4000, 1, 1)), jax.random.key(1)).values)
    np.testing.assert_allclose(many.mean(0), Z[0, :, :5], atol=0.25)
    np.testing.assert_allclose(many.std(0), np.exp(0.5 * np.asarray(Z[0, :, 5:])), rtol=0.06)


def test_log_variances_have_limits_and_features_a_width():
    wild = jnp.concatenate([jnp.zeros((1, 1, 5)), jnp.full((1, 1, 5), 99.0)], axis=-1)
    assert float(BOTTLENECK.apply({}, wild, method="moments")[1].max()) == LOG_VARIANCES[1]
    assert float(BOTTLENECK.apply({}, -wild, method="moments")[1].min()) == LOG_VARIANCES[0]
    with pytest.raises(ValueError, match=r"features are 8 wide.*need 10"):
        BOTTLENECK.apply({}, Z[..., :8])
