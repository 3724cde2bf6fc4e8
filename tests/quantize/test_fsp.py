"""Finite scalar quantization by a distribution function."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok.quantize.fsp
from jaxtok.quantize.distributions import ACTIVATIONS
from jaxtok.quantize.fsp import FSP, bins, perturb
from jaxtok.quantize.health import health
from jaxtok.quantize.moments import MOMENT_WEIGHTS, moment_loss, moments
from jaxtok.systems.quantizers.scalar import fsp
from tests.filled import filled, normal

Z = normal(4, 6, 8)
MASK = jnp.asarray(np.arange(24).reshape(4, 6) % 5 > 1)
NAMES = sorted(ACTIVATIONS)


def apply(module, *args, **kwargs):
    """What a module without variables returns, in one compilation."""
    return jax.jit(functools.partial(module.apply, **kwargs))({}, *args)


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_function_and_its_inverse(name):
    activation = ACTIVATIONS[name]
    z = jnp.linspace(-3.0, 3.0, 401)
    y = activation.cdf(z)
    assert np.all(np.diff(y) > 0) and abs(float(activation.cdf(jnp.float32(0.0))) - 0.5) < 1e-6
    np.testing.assert_allclose(activation.cdf(-z), 1 - y, atol=1e-6)
    np.testing.assert_allclose(activation.inverse(y), z, atol=2e-4)
    limits = activation.cdf(jnp.asarray([-1e9, 1e9]))
    np.testing.assert_allclose(limits, [0, 1], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_the_distribution_use_all_codes_alike(name):
    """And have its variance; then values have unit variance."""
    y = (jnp.arange(8000) + 0.5) / 8000
    z = ACTIVATIONS[name].inverse(y)
    out = apply(FSP((8,), activation=name, regulariser="none"), z[None, :, None])
    assert health(out.statistics)["perplexity"] > 7.99
    np.testing.assert_allclose(jnp.std(out.values), np.sqrt(1 - 1 / 64), atol=2e-3)
    if ACTIVATIONS[name].variance is not None:
        np.testing.assert_allclose(jnp.var(z), ACTIVATIONS[name].variance, rtol=0.01)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_code_comes_back(name, inverse):
    levels = (2, 3, 4, 5, 8, 13)
    module = FSP(levels, activation=name, inverse=inverse, regulariser="none")
    codes = jnp.asarray(np.arange(26)[:, None] % np.asarray(levels), jnp.int32)[None]
    z = ACTIVATIONS[name].inverse((codes + 0.5) / np.asarray(levels, np.float32))
    out = apply(module, z)
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.values, apply(module, codes, method="decode"))
    unit = ((codes + 0.5) / np.asarray(levels) - 0.5) * np.sqrt(12)
    np.testing.assert_allclose(out.values, z if inverse else unit, atol=1e-5)
    far = apply(module, jnp.asarray([-jnp.inf, -1e30, 1e30, jnp.inf])[None, :, None] * jnp.ones(6))
    np.testing.assert_array_equal(
        far.codes[0], [[0] * 6, [0] * 6, [n - 1 for n in levels], [n - 1 for n in levels]]
    )


def test_gradients_by_hand():
    module = FSP((8, 5), activation="sigmoid", regulariser="none")
    z = normal(1, 20, 2)
    gradient = jax.grad(lambda z: jnp.sum(apply(module, z).values))(z)
    p = jax.nn.sigmoid(z)
    np.testing.assert_allclose(gradient, p * (1 - p) * np.sqrt(12), atol=1e-5)
    straight = jax.grad(lambda z: jnp.sum(apply(module.clone(inverse=True), z).values))(z)
    np.testing.assert_array_equal(straight, jnp.ones_like(z))


def test_noise_is_as_wide_as_a_bin_and_stays_inside():
    y, levels = jnp.asarray([[0.3, 0.02, 0.98]]), (4, 4, 4)
    uniforms = jnp.asarray([[0.75, 0.0, 1.0]])
    np.testing.assert_allclose(perturb(y, levels, uniforms), [[0.3 + 0.5 / 8, 0.02, 0.98]], atol=1e-6)
    gradient = jax.grad(lambda y: jnp.sum(perturb(y, levels, uniforms)))(y)
    np.testing.assert_array_equal(gradient, jnp.ones_like(y))
    np.testing.assert_array_equal(bins(jnp.asarray([[0.0, 0.25, 0.999, 1.0]]), (4,) * 4), [[0, 1, 3, 3]])


def test_noise_belongs_to_the_example_and_to_training():
    module = FSP((8, 6, 5, 4, 3, 3, 3, 2), quantize_rate=0.5, inverse=True, activation="normal")
    key = jax.random.key(1)
    run = jax.jit(lambda z, key: module.apply({}, z, train=True, key=key))
    quiet, loud = apply(module, Z), run(Z, key)
    np.testing.assert_array_equal(quiet.codes, loud.codes)
    assert 0.3 < np.mean(quiet.values != loud.values) < 0.7 and np.isfinite(loud.values).all()
    np.testing.assert_array_equal(apply(module, Z, key=key).values, quiet.values)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    parts = [run(Z[i : i + 1], keys[i : i + 1]).values for i in range(4)]
    np.testing.assert_array_equal(jnp.concatenate(parts), loud.values)


def test_moments_and_their_loss():
    z = 1 + 2 * normal(50, 3) ** 2
    x = np.asarray(z, np.float64)
    mean, variance = x.mean(0), x.var(0, ddof=1)
    standard = (x - mean) / np.sqrt(variance)
    expected = (mean, variance, (standard**3).mean(0), (standard**4).mean(0) - 3)
    for ours, theirs in zip(moments(z), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    terms = [
        w * np.mean((m - t) ** 2) for w, m, t in zip(MOMENT_WEIGHTS, expected, (0, 2.0, 0, 0), strict=True)
    ]
    for order, used in (("variance", 2), ("skewness", 3), ("kurtosis", 4)):
        np.testing.assert_allclose(moment_loss(z, order, 2.0), sum(terms[:used]), rtol=1e-4)
    gradient = jax.grad(lambda z: moment_loss(z, "variance", 2.0))(z)
    by_hand = 0.1 * 2 * mean / 50 + 0.07 * 2 * (variance - 2) * 2 * (x - mean) / 49
    np.testing.assert_allclose(gradient, by_hand / 3, rtol=1e-4, atol=1e-6)
    assert np.isfinite(jax.grad(lambda z: moment_loss(z, "kurtosis", 1.0))(jnp.zeros((1, 3)))).all()


def test_the_target_is_the_variance_of_the_distribution():
    loss = lambda **options: apply(FSP((4,) * 8, **options), Z).losses["moments"]
    for name in ("tanh", "sigmoid", "normal", "laplace"):
        stated = loss(activation=name, target_variance=ACTIVATIONS[name].variance)
        np.testing.assert_array_equal(loss(activation=name), stated)
    np.testing.assert_array_equal(loss(activation="cauchy"), loss(activation="cauchy", target_variance=1.0))
    assert not apply(FSP((4,) * 8, regulariser="none"), Z).losses


@pytest.mark.parametrize(
    "module",
    [
        FSP((8, 5, 5), width=8, regulariser="kurtosis"),
        FSP((4,) * 8, inverse=True, activation="laplace", project="always", projection_bias=False),
    ],
    ids=["plain", "inverse"],
)
def test_masked_tokens_have_no_effect(module):
    variables = filled(module, Z)
    run = jax.jit(lambda z, mask=None: module.apply(variables, z, train=True, mask=mask))
    out = run(Z, MASK)
    assert not np.any(out.values[~MASK]) and not np.any(out.codes[~MASK])
    np.testing.assert_array_equal(module.apply(variables, Z, MASK, method="encode"), out.codes)
    disturbed = jnp.where(MASK[..., None], Z, jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, run(disturbed, MASK), out)
    alone = run(Z[MASK][None])
    np.testing.assert_array_equal(out.codes[MASK], alone.codes[0])
    np.testing.assert_array_equal(out.statistics["counts"], alone.statistics["counts"])
    np.testing.assert_allclose(out.losses["moments"], alone.losses["moments"], rtol=1e-5)
    gradient = jax.grad(lambda z: jnp.sum(run(z, MASK).values) + run(z, MASK).losses["moments"])(disturbed)
    assert not np.any(gradient[~MASK]) and np.isfinite(gradient[MASK]).all() and np.any(gradient[MASK])


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="levels="):
        FSP((8, 1)).init(jax.random.key(0), jnp.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match="vector_norm='other'"):
        fsp({"class": "FSP", "args": {"levels": [4], "vector_norm": "other"}})


@pytest.mark.parametrize(
    "name, regulariser, variance",
    [
        ("none", "none", 1.0),
        ("var", "variance", 1.0),
        ("var_sigmoid", "variance", 3.29),
        ("kurt", "kurtosis", 1.0),
    ],
)
def test_official_presets(name, regulariser, variance):
    module = fsp({"class": "FSP", "args": {"levels": [4, 5], "vector_norm": name}})
    assert (module.regulariser, module.target_variance) == (regulariser, variance)
    assert module.quantize_rate == 0  # the official default: only noise in training


def test_the_example_in_the_documentation_runs():
    result = doctest.testmod(jaxtok.quantize.fsp)
    assert result.attempted and not result.failed
