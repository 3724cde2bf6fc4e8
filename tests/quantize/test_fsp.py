"""Finite scalar quantization by a distribution function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.distributions import ACTIVATIONS
from jaxtok.quantize.fsp import FSP, bins, perturb
from jaxtok.quantize.health import health
from jaxtok.quantize.moments import MOMENT_WEIGHTS, moment_loss, moments
from jaxtok.systems.quantizers.scalar import fsp
from tests.compiled import optimised
from tests.filled import normal
from tests.quantize.masks import Z, check_masked_tokens

NAMES = sorted(ACTIVATIONS)


def apply(module, *args, **kwargs):
    """What a module without variables returns, in one compilation."""
    return jax.jit(functools.partial(module.apply, **kwargs))({}, *args)


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_function_and_its_inverse(name):
    activation = ACTIVATIONS[name]
    z = np.linspace(-3.0, 3.0, 401, dtype=np.float32)

    @jax.jit
    def run(z):
        y = activation.cdf(z)
        others = [activation.cdf(x) for x in (-z, jnp.float32(0.0), jnp.asarray([-1e9, 1e9]))]
        return y, activation.inverse(y), others

    y, back, (mirrored, middle, limits) = jax.device_get(run(z))
    assert np.all(np.diff(y) > 0) and abs(middle - 0.5) < 1e-6
    np.testing.assert_allclose(mirrored, 1 - y, atol=1e-6)
    np.testing.assert_allclose(back, z, atol=2e-4)
    np.testing.assert_allclose(limits, [0, 1], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_the_distribution_use_all_codes_alike(name):
    """And have its variance; then values have unit variance."""

    @jax.jit
    def run(y):
        z = ACTIVATIONS[name].inverse(y)
        out = FSP((8,), activation=name, regulariser="none").apply({}, z[None, :, None])
        return z, out.values, health(out.statistics)["perplexity"]

    z, values, perplexity = jax.device_get(run((np.arange(8000, dtype=np.float32) + 0.5) / 8000))
    assert perplexity > 7.99
    np.testing.assert_allclose(np.std(values), np.sqrt(1 - 1 / 64), atol=2e-3)
    if ACTIVATIONS[name].variance is not None:
        np.testing.assert_allclose(np.var(z), ACTIVATIONS[name].variance, rtol=0.01)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_code_comes_back(name, inverse):
    levels = (2, 3, 4, 5, 8, 13)
    module = FSP(levels, activation=name, inverse=inverse, regulariser="none")
    codes = jnp.asarray(np.arange(26)[:, None] % np.asarray(levels), jnp.int32)[None]
    far = jnp.asarray([-jnp.inf, -1e30, 1e30, jnp.inf])[None, :, None] * jnp.ones(6)

    @jax.jit
    def run(codes):
        z = ACTIVATIONS[name].inverse((codes + 0.5) / np.asarray(levels, np.float32))
        both = module.apply({}, jnp.concatenate([z, far], axis=1))
        return z, both.codes, both.values, module.apply({}, codes, method="decode")

    z, both, values, decoded = jax.device_get(run(codes))
    values, far = values[:, : codes.shape[1]], both[0, codes.shape[1] :]
    np.testing.assert_array_equal(both[:, : codes.shape[1]], codes)
    np.testing.assert_array_equal(values, decoded)
    unit = ((codes + 0.5) / np.asarray(levels) - 0.5) * np.sqrt(12)
    np.testing.assert_allclose(values, z if inverse else unit, atol=1e-5)
    np.testing.assert_array_equal(far, [[0] * 6, [0] * 6, [n - 1 for n in levels], [n - 1 for n in levels]])


def test_gradients_by_hand():
    module = FSP((8, 5), activation="sigmoid", regulariser="none")
    z = normal(1, 20, 2)
    total = lambda module: lambda z: jnp.sum(module.apply({}, z).values)
    run = lambda z: (jax.grad(total(module))(z), jax.grad(total(module.clone(inverse=True)))(z))
    gradient, straight = jax.jit(run)(z)
    p = jax.nn.sigmoid(z)
    np.testing.assert_allclose(gradient, p * (1 - p) * np.sqrt(12), atol=1e-5)
    np.testing.assert_array_equal(straight, jnp.ones_like(z))


def test_noise_is_as_wide_as_a_bin_and_stays_inside():
    y, levels = jnp.asarray([[0.3, 0.02, 0.98]]), (4, 4, 4)
    uniforms = jnp.asarray([[0.75, 0.0, 1.0]])

    @jax.jit
    def run(y):
        moved, pull = jax.vjp(lambda y: perturb(y, levels, uniforms), y)
        return moved, pull(jnp.ones_like(y))[0], bins(jnp.asarray([[0.0, 0.25, 0.999, 1.0]]), (4,) * 4)

    moved, gradient, binned = run(y)
    np.testing.assert_allclose(moved, [[0.3 + 0.5 / 8, 0.02, 0.98]], atol=1e-6)
    np.testing.assert_array_equal(gradient, np.ones_like(y))
    np.testing.assert_array_equal(binned, [[0, 1, 3, 3]])


def test_noise_belongs_to_the_example_and_to_training():
    module = FSP((8, 6, 5, 4, 3, 3, 3, 2), quantize_rate=0.5, inverse=True, activation="normal")
    key = jax.random.key(1)

    @optimised
    def run(z, keys):
        loud = module.apply({}, z, train=True, key=key)
        one = lambda row: module.apply({}, row[0][None], train=True, key=row[1][None]).values[0]
        quiet = module.apply({}, z), module.apply({}, z, key=key)
        return loud, *quiet, jax.lax.map(one, (z, keys))

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    loud, quiet, with_key, parts = jax.device_get(run(Z, keys))
    np.testing.assert_array_equal(quiet.codes, loud.codes)
    assert 0.3 < np.mean(quiet.values != loud.values) < 0.7 and np.isfinite(loud.values).all()
    np.testing.assert_array_equal(with_key.values, quiet.values)
    np.testing.assert_array_equal(parts, loud.values)


def test_moments_and_their_loss():
    z = 1 + 2 * normal(50, 3) ** 2
    x = np.asarray(z, np.float64)
    mean, variance = x.mean(0), x.var(0, ddof=1)
    standard = (x - mean) / np.sqrt(variance)
    expected = (mean, variance, (standard**3).mean(0), (standard**4).mean(0) - 3)
    orders = ("variance", "skewness", "kurtosis")

    @jax.jit
    def run(z):
        losses = [moment_loss(z, order, 2.0) for order in orders]
        alone = jax.grad(lambda z: moment_loss(z, "kurtosis", 1.0))(jnp.zeros((1, 3)))
        return moments(z), losses, jax.grad(lambda z: moment_loss(z, "variance", 2.0))(z), alone

    found, losses, gradient, alone = jax.device_get(run(z))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    terms = [
        w * np.mean((m - t) ** 2) for w, m, t in zip(MOMENT_WEIGHTS, expected, (0, 2.0, 0, 0), strict=True)
    ]
    for loss, used in zip(losses, (2, 3, 4), strict=True):
        np.testing.assert_allclose(loss, sum(terms[:used]), rtol=1e-4)
    by_hand = 0.1 * 2 * mean / 50 + 0.07 * 2 * (variance - 2) * 2 * (x - mean) / 49
    np.testing.assert_allclose(gradient, by_hand / 3, rtol=1e-4, atol=1e-6)
    assert np.isfinite(alone).all()


def test_the_target_is_the_variance_of_the_distribution():
    loss = lambda **options: FSP((4,) * 8, **options).apply({}, Z).losses["moments"]
    variances = {name: ACTIVATIONS[name].variance for name in ("tanh", "sigmoid", "normal", "laplace")}

    @jax.jit
    def run():
        stated = {n: loss(activation=n, target_variance=v) for n, v in {**variances, "cauchy": 1.0}.items()}
        return {n: loss(activation=n) for n in stated}, stated

    jax.tree.map(np.testing.assert_array_equal, *run())
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
    check_masked_tokens(module)


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
