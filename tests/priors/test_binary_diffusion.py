import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.keys import example_keys
from jaxtok.nn.conditioning import ClassConditioner
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.priors.binary_diffusion import (
    BinaryDiffusion,
    DiffusionSettings,
    corrupt,
    step_probability,
    x0_logits,
)
from jaxtok.priors.contract import Prior
from tests.compiled import optimised
from tests.filled import filled, normal

GRID = [(t, s) for t in (1.0, 0.7, 0.3, 0.05) for s in (0.9, 0.6, 0.3, 0.02, 0.0) if s < t]


def bce(logits, targets):
    """Binary cross-entropy with logits, float64, by its definition."""
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


# -- the process


def test_predicting_the_flip_is_predicting_the_clean_bit():
    rng = np.random.default_rng(0)
    x0, xt = rng.integers(0, 2, (2, 3, 4, 5))
    o = normal(3, 4, 5)
    logits = jax.jit(x0_logits)(o, xt)
    np.testing.assert_allclose(bce(logits, x0), bce(o, xt ^ x0), atol=1e-5)


def test_bits_are_flipped_half_as_often_as_the_time_says():
    bits = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 100, 100)))
    t = np.array([0.0, 0.2, 0.7, 1.0], np.float32)
    noisy = jax.jit(corrupt)(bits, t, example_keys(jax.random.key(0), 4))
    rate = np.mean(noisy != bits, axis=(1, 2))
    assert (np.abs(rate - t / 2) <= 4.5 * np.sqrt(t / 2 * (1 - t / 2) / 10_000)).all()
    # At t = 1 nothing of the clean bits is left.
    kept = np.corrcoef(np.asarray(noisy[3]).ravel(), np.asarray(bits[3]).ravel())[0, 1]
    assert abs(kept) < 4.5 / 100


def probabilities(p0, noisy, t, s, protocol):
    """P(x_s = 1) as float for all arguments of one shape."""
    run = jax.jit(step_probability, static_argnames="protocol")
    p0, noisy = np.broadcast_arrays(np.asarray(p0, np.float32), np.asarray(noisy, np.int32))
    return np.asarray(run(p0, noisy, np.float32(t), np.float32(s), protocol=protocol), np.float64)


P0 = np.array([0.0, 0.1, 0.5, 0.9, 1.0])[:, None]
NOISY = np.array([0, 1])


def test_the_posterior_is_bayes_on_the_two_state_chain():
    def flips(t):
        return np.array([[1 - t / 2, t / 2], [t / 2, 1 - t / 2]])

    for t, s in GRID:
        to_s = flips(s)  # [x_0, x_s]
        onward = np.linalg.solve(to_s, flips(t))  # [x_s, x_t], so that to_s @ onward is the whole way to t
        joint = to_s[:, :, None] * onward[None]  # P(x_s, x_t | x_0)
        given_x0 = joint / joint.sum(1, keepdims=True)  # P(x_s | x_0, x_t)
        expected = (1 - P0) * given_x0[0, 1][NOISY] + P0 * given_x0[1, 1][NOISY]
        found = probabilities(P0, NOISY, t, s, "posterior")
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=f"{t} {s}")


@pytest.mark.parametrize("protocol", ["posterior", "protocol_1", "protocol_2"])
def test_every_protocol_is_a_probability_and_treats_both_values_alike(protocol):
    for t, s in GRID:
        one = probabilities(P0, NOISY, t, s, protocol)
        zero = probabilities(1 - P0, 1 - NOISY, t, s, protocol)
        assert ((one >= 0) & (one <= 1)).all()
        np.testing.assert_allclose(one + zero, 1, atol=1e-6)


def test_the_official_protocols_are_their_formulas():
    for t, s in GRID:
        marginal = P0 * (1 - s) + 0.5 * s + 0 * NOISY
        np.testing.assert_allclose(probabilities(P0, NOISY, t, s, "protocol_1"), marginal, atol=1e-6)
        weight1 = marginal * (NOISY - (t - s) * (NOISY - 0.5))
        weight0 = (1 - marginal) * ((1 - NOISY) - (t - s) * ((1 - NOISY) - 0.5))
        expected = weight1 / (weight1 + weight0)
        np.testing.assert_allclose(probabilities(P0, NOISY, t, s, "protocol_2"), expected, atol=1e-6)


@pytest.mark.parametrize("steps, rho", [(1, 1.0), (3, 1.0), (20, 1.0), (7, 2.0)])
def test_ancestral_steps_with_the_true_posterior_reproduce_the_data(steps, rho):
    """One bit that is on with probability 0.8, its chain in closed form: exact for any number of steps."""
    data, on = 0.8, 0.5
    grid = (1 - np.arange(steps + 1) / steps) ** rho
    for t, s in itertools.pairwise(grid):
        likelihood = np.array([t / 2, 1 - t / 2])  # of x_t = 0, 1 given x_0 = 1
        p0 = data * likelihood / (data * likelihood + (1 - data) * likelihood[::-1])
        p = probabilities(p0, NOISY, t, s, "posterior")
        on = (1 - on) * p[0] + on * p[1]
        np.testing.assert_allclose(on, (1 - s) * data + s / 2, atol=1e-5)


# -- a network that knows the truth: independent bits, on with a probability that depends on the class

TOKENS, BITS, CLASSES = 16, 4, 2
ODDS = np.array([-1.0, 0.8, 0.2])  # logit of "on" per class; the last is "no class"


class Oracle:
    """Stands in for a network: the exact flip logits of the data above."""

    space, tokens = CodeSpace.binary(BITS), TOKENS

    def apply(self, variables, *args, method=None):
        if method == "start":
            return args[0]
        codes, condition, t, *cache = args
        condition = cache[0] if cache else condition
        prior = jnp.asarray(ODDS, jnp.float32)[condition.features][:, None, None]
        evidence = jnp.log((2 - t) / t)[:, None, None]
        logit = prior + jnp.where(codes == 1, evidence, -evidence)
        return jnp.where(codes == 1, -logit, logit)


def classes(*labels):
    return Condition(jnp.asarray(labels, jnp.int32), null=Condition(jnp.asarray([CLASSES], jnp.int32)))


ORACLE = Prior(Oracle(), BinaryDiffusion())
SETTINGS = DiffusionSettings(steps=10, guidance=0.0)


@pytest.fixture(scope="module")
def sample():
    """One compiled call per settings."""

    def run(condition, key, settings=SETTINGS, given=None):
        return ORACLE.sample({}, condition, key, given=given, settings=settings).codes

    return jax.jit(run, static_argnames="settings")


ROWS = classes(*[0] * 64, *[1] * 64)


KEYS = example_keys(jax.random.key(0), 128)


@pytest.fixture(scope="module")
def drawn(sample):
    return np.asarray(sample(ROWS, KEYS))


def test_samples_have_the_distribution_of_the_data(drawn):
    assert drawn.shape == (128, TOKENS, BITS) and drawn.dtype == np.int32
    # Exact up to the last step, which takes the likelier value: the marginal is that of t = 1 / steps.
    data = 1 / (1 + np.exp(-ODDS[:2]))
    p = 0.9 * data + 0.05
    found = drawn.reshape(2, -1).mean(-1)
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / (64 * TOKENS * BITS))).all()


def test_samples_depend_on_their_own_key_only(sample, drawn):
    order = np.random.default_rng(0).permutation(128)
    moved = sample(dataclasses.replace(ROWS, features=ROWS.features[order]), KEYS[order])
    np.testing.assert_array_equal(moved, drawn[order])


def test_guidance_zero_never_looks_at_the_null_condition(sample, drawn):
    other_null = dataclasses.replace(ROWS, null=Condition(jnp.asarray([1], jnp.int32)))
    np.testing.assert_array_equal(sample(other_null, KEYS), drawn)
    without = Condition(ROWS.features)
    assert jax.eval_shape(lambda: sample(without, KEYS)).shape == drawn.shape
    with pytest.raises(ValueError, match="null="):
        jax.eval_shape(lambda: sample(without, KEYS, dataclasses.replace(SETTINGS, guidance=3.0)))


def test_guidance_exaggerates_what_the_condition_says(sample):
    guided = sample(ROWS, KEYS, dataclasses.replace(SETTINGS, guidance=1.0))
    # c + w (c - u): log odds of -1 - 1.2 and 0.8 + 0.6, seen at the last but one time, as above.
    p = 0.9 / (1 + np.exp([2.2, -1.4])) + 0.05
    found = np.asarray(guided).reshape(2, -1).mean(-1)
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / (64 * TOKENS * BITS))).all()


def test_given_bits_are_kept_and_the_others_drawn(sample):
    rng = np.random.default_rng(0)
    given = Latents(
        rng.integers(0, 2, (128, TOKENS, BITS)).astype(np.int32), mask=rng.random((128, TOKENS, BITS)) < 0.5
    )
    codes = np.asarray(sample(ROWS, KEYS, given=given))
    np.testing.assert_array_equal(codes[given.mask], given.codes[given.mask])
    assert 0.4 < np.mean(codes[~given.mask] != given.codes[~given.mask]) < 0.6


def test_an_official_protocol_on_a_bent_grid(sample):
    settings = DiffusionSettings(steps=3, guidance=0.0, protocol="protocol_2", rho=2.0)
    codes = np.asarray(sample(ROWS, KEYS, settings))
    assert set(np.unique(codes)) == {0, 1} and codes[64:].mean() > codes[:64].mean() + 0.1


# -- the loss

CODES = jnp.asarray(np.random.default_rng(1).integers(0, 2, (6, TOKENS, BITS)), jnp.int32)


def oracle_loss(method, codes, condition, key, mask=None):
    return method.loss(
        lambda params, *args: Oracle().apply(params, *args), {}, Latents(codes, mask=mask), condition, key
    )


def test_the_loss_is_the_cross_entropy_of_the_clean_bits():
    seen = {}

    def apply(params, noisy, condition, t):
        seen.update(noisy=np.asarray(noisy), t=np.asarray(t))
        return params

    output, mask = normal(6, TOKENS, BITS), np.random.default_rng(2).random((6, TOKENS, BITS)) < 0.5
    for target in ("flip", "x0"):
        method = BinaryDiffusion(target=target)
        loss, metrics = method.loss(apply, output, Latents(CODES), None, jax.random.key(0))
        clean = np.asarray(CODES)
        targets = clean if target == "x0" else clean ^ seen["noisy"]
        assert loss == pytest.approx(bce(output, targets).mean(), abs=1e-5)
        accuracy = np.mean((np.asarray(output) > 0) == targets)
        assert metrics["bit_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    masked, _ = method.loss(apply, output, Latents(CODES, mask=jnp.asarray(mask)), None, jax.random.key(0))
    assert masked == pytest.approx(bce(output, clean)[mask].mean(), abs=1e-5)
    assert seen["t"].shape == (6,) and ((seen["t"] > 0) & (seen["t"] < 1)).all()


@pytest.mark.parametrize("times", ["logistic_normal", "uniform"])
def test_times_have_the_named_distribution(times):
    t = jax.jit(lambda keys: BinaryDiffusion(times=times)._draw_times(keys))(
        example_keys(jax.random.key(0), 4000)
    )
    z = np.log(t / (1 - t)) if times == "logistic_normal" else np.asarray(t)
    mean, std = (0.0, 1.0) if times == "logistic_normal" else (0.5, 12**-0.5)
    assert abs(np.mean(z) - mean) < 4.5 * std / np.sqrt(4000) and np.std(z) == pytest.approx(std, rel=0.06)


def test_micro_batches_add_up_to_the_batch():
    keys, condition = example_keys(jax.random.key(0), 6), classes(0, 1, 0, 1, 0, 1)
    run = optimised(
        lambda codes, labels, keys: oracle_loss(
            BinaryDiffusion(), codes, dataclasses.replace(condition, features=labels), keys
        )[0]
    )
    parts = [run(CODES[i : i + 3], condition.features[i : i + 3], keys[i : i + 3]) for i in (0, 3)]
    assert np.mean(parts) == pytest.approx(float(run(CODES, condition.features, keys)), abs=1e-6)


@pytest.mark.parametrize("dropout, seen", [(0.0, {0}), (1.0, {CLASSES}), (0.5, {0, CLASSES})])
def test_dropped_rows_train_with_the_null_condition(dropout, seen):
    features = []

    def apply(params, noisy, condition, t):
        features.extend(np.asarray(condition.features).tolist())
        return jnp.zeros(noisy.shape)

    method = BinaryDiffusion(condition_dropout=dropout)
    method.loss(apply, {}, Latents(CODES), classes(*[0] * 6), jax.random.key(3))
    assert set(features) == seen and len(features) == 6


# -- with a real network


def test_a_real_network_trains_and_samples_in_one_call_each():
    conditioner = ClassConditioner(2, 6)
    network = LatentTransformer(
        CodeSpace.binary(3), 4, 1, 1, 4, causal=False, timed=True, conditioner=conditioner
    )
    prior = Prior(network, BinaryDiffusion())
    condition, codes = conditioner.condition(jnp.asarray([0, 1])), CODES[:2, :4, :3]
    params = filled(network, codes, condition, jnp.zeros(2))["params"]
    shapes = jax.eval_shape(prior.init, jax.random.key(0), Latents(codes), condition)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)

    @jax.jit
    def everything(params, key):
        loss = lambda params: prior.loss(params, Latents(codes), condition, key)[0]
        gradients = jax.grad(loss)(params)
        given = Latents(codes, mask=jnp.zeros(codes.shape, bool).at[:, 0].set(True))
        settings = DiffusionSettings(steps=3, guidance=2.0)
        return gradients, prior.sample(params, condition, key, given=given, settings=settings).codes

    gradients, drawn = everything(params, jax.random.key(0))
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(gradients))
    assert drawn.shape == codes.shape and set(np.unique(drawn)) <= {0, 1}
    np.testing.assert_array_equal(drawn[:, 0], codes[:, 0])


# -- mistakes


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"temperature": 0.0}, "temperature=0.0 and rho"),
        ({"rho": -1.0}, "rho=-1.0 positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSettings(**settings)


def test_categorical_latents_are_refused():
    network = Oracle()
    network.space = CodeSpace((3,) * BITS)
    prior = Prior(network, BinaryDiffusion())
    with pytest.raises(ValueError, match="needs a binary space"):
        prior.sample({}, classes(0), jax.random.key(0))
    wide = lambda params, noisy, condition, t: jnp.zeros((*noisy.shape[:2], 3 * BITS))
    with pytest.raises(ValueError, match="one logit per bit"):
        BinaryDiffusion().loss(wide, {}, Latents(CODES), None, jax.random.key(0))
