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
from jaxtok.nn.slots import head_width
from jaxtok.priors import autoregressive
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior
from tests.filled import filled, normal

SPACE, TOKENS, ROWS = CodeSpace((2, 3)), 2, 8000
FIRST = np.asarray(normal(2, 5))  # logits of token 0, per class; class 1 is "no class"
SECOND = np.asarray(2 * normal(2, 6, 5, seed=1))  # logits of token 1, per class and index of token 0


class Tables:
    """Stands in for a network: the next token's logits, looked up by class and token before."""

    space, tokens = SPACE, TOKENS

    def apply(self, variables, *args, method=None):
        if method == "start":
            return args[0].features
        if method == "step":
            labels, before, positions, _ = args
            return self.logits(labels[:, None], before, positions), labels
        codes, condition = args
        before = jnp.concatenate([codes[:, :1], codes[:, :-1]], axis=1)
        return self.logits(
            condition.features[:, None], before, jnp.broadcast_to(jnp.arange(TOKENS), codes.shape[:2])
        )

    def logits(self, labels, before, positions):
        second = jnp.asarray(SECOND)[labels, SPACE.join(before)]
        return jnp.where((positions == 0)[..., None], jnp.asarray(FIRST)[labels], second)


def condition(rows, null=True):
    return Condition(jnp.zeros(rows, jnp.int32), null=Condition(jnp.ones(1, jnp.int32)) if null else None)


PRIOR = Prior(Tables(), Autoregressive(SPACE))
PLAIN = AutoregressiveSettings(guidance=0.0)
GREEDY = AutoregressiveSettings(guidance=0.0, temperature=0.0)


@pytest.fixture(scope="module")
def sample():
    def run(condition, key, settings=PLAIN, given=None):
        return PRIOR.sample({}, condition, key, settings=settings, given=given).codes

    return jax.jit(run, static_argnames="settings")


KEYS = example_keys(jax.random.key(0), ROWS)


@pytest.fixture(scope="module")
def drawn(sample):
    return np.asarray(sample(condition(ROWS), KEYS))


def probabilities(logits):
    """Of the six tokens in the order of their index (slot 0 fastest), from one vector of logits."""
    a, b = (np.exp(part) / np.exp(part).sum() for part in (logits[:2], logits[2:]))
    return (b[:, None] * a[None, :]).ravel()


JOINT = np.array([p * probabilities(SECOND[0, token]) for token, p in enumerate(probabilities(FIRST[0]))])


def test_samples_have_the_probabilities_of_the_model(drawn):
    assert drawn.shape == (ROWS, TOKENS, 2) and drawn.dtype == np.int32
    index = SPACE.join(drawn)
    found = np.bincount(index[:, 0] * 6 + index[:, 1], minlength=36) / ROWS
    p = JOINT.ravel()
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / ROWS) + 1e-4).all()


def test_the_loss_is_the_code_length_under_the_model():
    tokens = SPACE.split(np.array(list(itertools.product(range(6), repeat=2))))
    method = dataclasses.replace(PRIOR.method, condition_dropout=0.0)
    apply = lambda params, *args: Tables().apply(params, *args)
    run = jax.jit(lambda latents: method.loss(apply, {}, latents, condition(36), jax.random.key(0)))
    loss, metrics = run(Latents(tokens))
    nats = -np.log(JOINT.ravel())
    assert loss == pytest.approx(nats.mean() / (TOKENS * 2), rel=1e-5)
    assert metrics["bits_per_token"] == pytest.approx(nats.mean() / TOKENS / np.log(2), rel=1e-5)
    # Only the first token counts.
    mask = np.zeros(tokens.shape, bool)
    mask[:, 0] = True
    expected = -np.log(np.repeat(probabilities(FIRST[0]), 6)).mean() / 2
    assert run(Latents(tokens, mask=mask))[0] == pytest.approx(expected, rel=1e-5)


def test_micro_batches_add_up_to_the_batch():
    codes = SPACE.split(np.random.default_rng(0).integers(0, 6, (6, TOKENS)))
    keys = example_keys(jax.random.key(0), 6)
    method = dataclasses.replace(PRIOR.method, condition_dropout=0.5)
    apply = lambda params, *args: Tables().apply(params, *args)
    run = jax.jit(
        lambda codes, keys: method.loss(apply, {}, Latents(codes), condition(codes.shape[0]), keys)[0]
    )
    parts = [run(codes[i : i + 3], keys[i : i + 3]) for i in (0, 3)]
    assert np.mean(parts) == pytest.approx(float(run(codes, keys)), abs=1e-6)


@pytest.mark.parametrize("dropout, seen", [(0.0, {0}), (1.0, {1}), (0.5, {0, 1})])
def test_dropped_rows_train_with_the_null_condition(dropout, seen):
    features = []

    def apply(params, codes, condition):
        features.extend(np.asarray(condition.features).tolist())
        return jnp.zeros((*codes.shape[:2], 5))

    method = Autoregressive(SPACE, condition_dropout=dropout)
    method.loss(apply, {}, Latents(jnp.zeros((6, TOKENS, 2), jnp.int32)), condition(6), jax.random.key(0))
    assert set(features) == seen and len(features) == 6


def test_samples_depend_on_their_own_key_only(sample, drawn):
    order = np.random.default_rng(0).permutation(ROWS)
    np.testing.assert_array_equal(sample(condition(ROWS), KEYS[order]), drawn[order])


def greedy(logits):
    return [int(np.argmax(logits[:2])), int(np.argmax(logits[2:]))]


def test_temperature_zero_is_deterministic(sample):
    codes = np.asarray(sample(condition(4), KEYS[:4], GREEDY))
    first = greedy(FIRST[0])
    np.testing.assert_array_equal(codes[0], [first, greedy(SECOND[0, first[0] + 2 * first[1]])])
    np.testing.assert_array_equal(codes, np.broadcast_to(codes[0], codes.shape))


def test_guidance_zero_never_looks_at_the_null_condition(sample, drawn):
    other_null = dataclasses.replace(condition(ROWS), null=Condition(jnp.zeros(1, jnp.int32)))
    np.testing.assert_array_equal(sample(other_null, KEYS), drawn)
    without = condition(ROWS, null=False)
    assert jax.eval_shape(lambda: sample(without, KEYS)).shape == drawn.shape
    with pytest.raises(ValueError, match="null="):
        jax.eval_shape(lambda: sample(without, KEYS, AutoregressiveSettings(guidance=1.0)))


def test_guidance_moves_away_from_the_unconditional_model(sample):
    w = 4.0
    settings = AutoregressiveSettings(guidance=w, temperature=0.0)
    first = greedy((1 + w) * FIRST[0] - w * FIRST[1])
    token = first[0] + 2 * first[1]
    second = greedy((1 + w) * SECOND[0, token] - w * SECOND[1, token])
    np.testing.assert_array_equal(sample(condition(4), KEYS[:4], settings)[0], [first, second])
    assert [first, second] != np.asarray(sample(condition(4), KEYS[:4], GREEDY))[0].tolist()


def test_given_codes_are_kept_and_steer_what_follows(sample):
    mask = np.zeros((ROWS, TOKENS, 2), bool)
    mask[:, 0] = True
    given = np.zeros((ROWS, TOKENS, 2), np.int32)
    given[:, 0] = [1, 2]
    codes = np.asarray(sample(condition(ROWS), KEYS, given=Latents(given, mask=mask)))
    np.testing.assert_array_equal(codes[:, 0], given[:, 0])
    p = probabilities(SECOND[0, 5])
    found = np.bincount(SPACE.join(codes[:, 1]), minlength=6) / ROWS
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / ROWS) + 1e-4).all()


@pytest.mark.parametrize("space", [CodeSpace.binary(3), SPACE], ids=lambda s: str(s.levels))
def test_a_real_network_samples_the_logits_that_it_trains(space, monkeypatch):
    """Greedy samples are the likeliest tokens of the teacher-forced network: the cache, which grows after two
    tokens here, changes nothing.
    """
    monkeypatch.setattr(autoregressive, "_SHORTEST_STAGE", 2)
    conditioner = ClassConditioner(2, 6)
    network = LatentTransformer(space, 4, 1, 1, 4, causal=True, timed=False, conditioner=conditioner)
    prior = Prior(network, Autoregressive(space))
    labels = conditioner.condition(jnp.asarray([0, 1]))
    zeros = jnp.zeros((2, 4, space.slots), jnp.int32)
    params = filled(network, zeros, labels)["params"]
    shapes = jax.eval_shape(prior.init, jax.random.key(0), Latents(zeros), labels)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)

    @jax.jit
    def everything(params, key):
        codes = prior.sample(params, labels, key, settings=GREEDY).codes
        drawn = prior.sample(params, labels, key, settings=AutoregressiveSettings(guidance=2.0)).codes
        return codes, prior.apply(params, codes, labels), drawn

    codes, logits, drawn = everything(params, jax.random.key(0))
    assert logits.shape == (2, 4, head_width(space))
    wide = np.asarray(logits)
    if space.is_binary:
        likeliest = (wide > 0).astype(int)
    else:
        likeliest = np.stack([wide[..., :2].argmax(-1), wide[..., 2:].argmax(-1)], axis=-1)
    np.testing.assert_array_equal(codes, likeliest)
    assert drawn.shape == codes.shape and (np.asarray(drawn) < np.array(space.levels)).all()


@pytest.mark.parametrize("count", [1, 31, 64, 100, 680])
def test_the_cache_grows_in_at_most_four_stages_of_32_tokens_or_more(count):
    ends = autoregressive._stage_ends(count)
    lengths = np.diff([0, *ends])
    assert ends[-1] == count and len(ends) == min(4, max(count // 32, 1))
    assert (lengths >= min(32, count)).all() and lengths.max() - lengths.min() <= 1


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        AutoregressiveSettings(temperature=-0.5)
