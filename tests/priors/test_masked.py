import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.keys import example_keys
from jaxtok.nn.masked_transformer import MaskedTransformer, masked_vocab
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked, MaskedSettings
from jaxtok.priors.masked_sampling import reveal
from tests.filled import filled, normal

SPACE, TOKENS, ROWS = CodeSpace((2, 3)), 4, 4000
# Logits of the first token per class (class 1 is "no class"), and of every other token per index of token 0,
# which is all that it depends on; without token 0 it has no condition.
FIRST = np.asarray(normal(2, 5))
OTHERS = np.asarray(2 * normal(6, 5, seed=1))


class Tables:
    """Stands in for a network: a star of tokens around token 0."""

    space, tokens = SPACE, TOKENS

    def apply(self, variables, *args, method=None):
        if method == "start":
            return args[0].features
        if method == "step":
            labels, codes, _, known = args
            return self.logits(labels, codes, known), labels
        codes, condition, masked = args
        return self.logits(condition.features, codes, ~masked)

    def logits(self, labels, codes, known):
        first = jnp.asarray(FIRST)[labels][:, None]
        others = jnp.asarray(OTHERS)[SPACE.join(codes[:, 0])] * known[:, :1]
        others = jnp.broadcast_to(others[:, None], (codes.shape[0], TOKENS - 1, 5))
        return jnp.concatenate([first, others], axis=1)


def condition(rows, null=True):
    return Condition(jnp.zeros(rows, jnp.int32), null=Condition(jnp.ones(1, jnp.int32)) if null else None)


PRIOR = Prior(Tables(), Masked(SPACE))
PLAIN = MaskedSettings(4, "linear", guidance=0.0, choice_temperature=0.0)
KEYS = example_keys(jax.random.key(0), ROWS)


@pytest.fixture(scope="module")
def sample():
    def run(condition, key, settings=PLAIN, given=None):
        return PRIOR.sample({}, condition, key, settings=settings, given=given).codes

    return jax.jit(run, static_argnames="settings")


@pytest.fixture(scope="module")
def drawn(sample):
    return np.asarray(sample(condition(ROWS), KEYS))


def probabilities(logits):
    """Of the six tokens in the order of their index (slot 0 fastest), from one vector of logits."""
    a, b = (np.exp(part) / np.exp(part).sum() for part in (logits[:2], logits[2:]))
    return (b[:, None] * a[None, :]).ravel()


def assert_frequencies(codes, p):
    found = np.bincount(SPACE.join(np.asarray(codes)), minlength=6) / len(codes)
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / len(codes)) + 1e-4).all()


def test_the_first_token_is_drawn_from_the_logits(sample):
    # All tokens in one step: every one from its own logits, knowing nothing of the others.
    codes = np.asarray(sample(condition(ROWS), KEYS, dataclasses.replace(PLAIN, steps=1)))
    assert codes.shape == (ROWS, TOKENS, 2) and codes.dtype == np.int32
    assert_frequencies(codes[:, 0], probabilities(FIRST[0]))
    for token in range(1, TOKENS):
        assert_frequencies(codes[:, token], np.full(6, 1 / 6))


def test_given_tokens_are_kept_and_steer_the_rest(sample):
    mask, given = np.zeros((ROWS, TOKENS, 2), bool), np.zeros((ROWS, TOKENS, 2), np.int32)
    mask[:, 0], given[:, 0] = True, [1, 2]
    mask[: ROWS // 2, 2, 1], given[:, 2, 1] = True, 1  # half of the rows give one slot of token 2 as well
    # Keeping the confident draws would favour likely values.
    settings = dataclasses.replace(PLAIN, order="random")
    codes = np.asarray(sample(condition(ROWS), KEYS, settings, Latents(given, mask=mask)))
    np.testing.assert_array_equal(codes[mask], given[mask])
    p = probabilities(OTHERS[5])
    for token in (1, 3):
        assert_frequencies(codes[:, token], p)
    assert_frequencies(codes[ROWS // 2 :, 2], p)
    # The rest of a token that is given in part is drawn.
    rest, q = codes[: ROWS // 2, 2, 0].mean(), p.reshape(3, 2).sum(0)[1]
    assert abs(rest - q) < 4.5 * np.sqrt(q * (1 - q) / (ROWS // 2))


def test_all_that_is_given_comes_back(sample):
    codes = SPACE.split(np.random.default_rng(0).integers(0, 6, (ROWS, TOKENS)))
    given = Latents(codes, mask=np.ones(codes.shape, bool))
    np.testing.assert_array_equal(sample(condition(ROWS), KEYS, given=given), codes)


def test_samples_depend_on_their_own_key_only(sample, drawn):
    order = np.random.default_rng(0).permutation(ROWS)
    np.testing.assert_array_equal(sample(condition(ROWS), KEYS[order]), drawn[order])


def test_guidance_zero_never_looks_at_the_null_condition(sample, drawn):
    other_null = dataclasses.replace(condition(ROWS), null=Condition(jnp.zeros(1, jnp.int32)))
    np.testing.assert_array_equal(sample(other_null, KEYS), drawn)
    guided = dataclasses.replace(PLAIN, guidance=1.0)
    with pytest.raises(ValueError, match="null="):
        jax.eval_shape(lambda: sample(condition(ROWS, null=False), KEYS, guided))


@pytest.mark.parametrize("rule, strength", [("c+s(c-u)", 2.0), ("u+s(c-u)", 3.0)])
def test_guidance_moves_away_from_the_unconditional_model(rule, strength):
    settings = MaskedSettings(
        1, temperature=0.0, guidance=strength, guidance_rule=rule, guidance_schedule="constant"
    )
    first = np.asarray(PRIOR.sample({}, condition(2), jax.random.key(0), settings=settings).codes)[0, 0]
    guided = 3 * FIRST[0] - 2 * FIRST[1]
    assert first.tolist() == [guided[:2].argmax(), guided[2:].argmax()]
    # A linear course starts without guidance.
    linear = dataclasses.replace(settings, guidance_schedule="linear")
    first = np.asarray(PRIOR.sample({}, condition(2), jax.random.key(0), settings=linear).codes)[0, 0]
    assert first.tolist() == [FIRST[0][:2].argmax(), FIRST[0][2:].argmax()]


# -- one step

LOGITS = normal(3, TOKENS, 5, seed=4)
CODES = jnp.asarray(SPACE.split(np.random.default_rng(5).integers(0, 6, (3, TOKENS))))
KNOWN = jnp.asarray([[True, False, False, False], [False, True, False, True], [False] * 4])
NOISE = [jnp.zeros((3, TOKENS, 2)), jnp.zeros((3, TOKENS, 3))]


def one_step(settings, count, choice=None, rank=None, progress=0.5):
    choice = jnp.zeros((3, TOKENS)) if choice is None else choice
    return reveal(LOGITS, CODES, KNOWN, jnp.asarray(count), SPACE, settings, progress, NOISE, choice, rank)


def test_the_most_confident_become_known():
    codes, known = one_step(dataclasses.replace(PLAIN, order="confidence"), [2, 1, 3])
    slots = [np.asarray(jax.nn.log_softmax(part, axis=-1)) for part in jnp.split(LOGITS, [2], axis=-1)]
    confidence = np.where(KNOWN, np.inf, sum(slot.max(-1) for slot in slots))
    expected = np.stack([np.argsort(np.argsort(row)) >= n for row, n in zip(confidence, [2, 1, 3])])
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_array_equal(np.asarray(codes)[KNOWN], np.asarray(CODES)[KNOWN])
    likeliest = np.stack([slot.argmax(-1) for slot in slots], axis=-1)
    np.testing.assert_array_equal(np.asarray(codes)[~np.asarray(KNOWN)], likeliest[~np.asarray(KNOWN)])


def test_noise_on_the_confidence_fades_and_other_orders_do_not_look_at_it():
    choice = 1e3 * normal(3, TOKENS, seed=6)

    def expected(score):
        score = np.where(KNOWN, np.inf, score)
        return np.stack([np.argsort(np.argsort(row)) >= n for row, n in zip(score, [2, 1, 3])])

    noisy = dataclasses.replace(PLAIN, choice_temperature=1.0)
    np.testing.assert_array_equal(one_step(noisy, [2, 1, 3], choice)[1], expected(choice))
    last = one_step(noisy, [2, 1, 3], choice, progress=1.0)[1]
    np.testing.assert_array_equal(last, one_step(PLAIN, [2, 1, 3])[1])
    random = dataclasses.replace(PLAIN, order="random")
    np.testing.assert_array_equal(one_step(random, [2, 1, 3], choice)[1], expected(choice))
    rank = jnp.broadcast_to(jnp.asarray([2, 0, 3, 1]), (3, TOKENS))
    halton = dataclasses.replace(PLAIN, order="halton")
    np.testing.assert_array_equal(one_step(halton, [2, 1, 3], choice, rank)[1], expected(-rank))


def test_filters_cut_what_is_drawn():
    settings = dataclasses.replace(PLAIN, top_k=1)
    noise = [100 * normal(3, TOKENS, level, seed=7) for level in SPACE.levels]
    codes, _ = reveal(
        LOGITS, CODES, KNOWN, jnp.zeros(3, jnp.int32), SPACE, settings, 0.5, noise, jnp.zeros((3, TOKENS))
    )
    np.testing.assert_array_equal(codes, one_step(PLAIN, [0, 0, 0])[0])


# -- the loss


def apply_tables(params, *args):
    return Tables().apply(params, *args)


def test_the_loss_is_a_weighted_smoothed_cross_entropy():
    masked = np.array([[True, False, True, False], [False, False, False, True], [True] * 4])
    for weights in ("sample", "batch"):
        rule = Masked(SPACE, label_smoothing=0.2, unmasked_weight=0.3, weights=weights)
        loss, metrics = rule.weighted_loss(LOGITS, Latents(CODES), jnp.asarray(masked))
        total = np.zeros((3, TOKENS, 2))
        right = np.zeros((3, TOKENS, 2))
        for q, part in enumerate(np.split(np.asarray(LOGITS), [2], axis=-1)):
            logp = part - np.log(np.exp(part).sum(-1, keepdims=True))
            target = 0.8 * np.eye(part.shape[-1])[np.asarray(CODES)[..., q]] + 0.2 / part.shape[-1]
            total[..., q] = -(target * logp).sum(-1)
            right[..., q] = part.argmax(-1) == np.asarray(CODES)[..., q]
        w = np.where(masked, 1.0, 0.3)[..., None] * np.ones(2)
        expected = (total * w).sum() / w.sum()
        if weights == "sample":
            expected = ((total * w).sum((1, 2)) / w.sum((1, 2))).mean()
        assert loss == pytest.approx(expected, rel=1e-5)
        assert metrics["masked_accuracy"] == pytest.approx(right[masked].mean(), rel=1e-5)
    # Absent slots have no weight.
    present = np.random.default_rng(8).random((3, TOKENS, 2)) < 0.7
    present[0, 1] = False
    latents = Latents(CODES, mask=jnp.asarray(present))
    loss, _ = rule.weighted_loss(LOGITS, latents, jnp.asarray(masked))
    absent = ~present.any(axis=-1)
    padded, _ = rule.weighted_loss(LOGITS.at[absent].set(jnp.nan), latents, jnp.asarray(masked))
    assert padded == loss  # whatever stands where nothing is
    assert loss == pytest.approx((total * w * present).sum() / (w * present).sum(), rel=1e-5)


def test_micro_batches_add_up_to_the_batch():
    codes = SPACE.split(np.random.default_rng(0).integers(0, 6, (6, TOKENS)))
    keys, rule = example_keys(jax.random.key(0), 6), Masked(SPACE, condition_dropout=0.5)
    run = jax.jit(
        lambda codes, keys: rule.loss(apply_tables, {}, Latents(codes), condition(codes.shape[0]), keys)[0]
    )
    parts = [run(codes[i : i + 3], keys[i : i + 3]) for i in (0, 3)]
    assert np.mean(parts) == pytest.approx(float(run(codes, keys)), abs=1e-6)


@pytest.mark.parametrize("masking", ["count", "independent"])
def test_masks_follow_the_schedule(masking):
    rule, rng = Masked(SPACE, "cosine", masking), np.random.default_rng(0)
    time, uniform = rng.random(2000).astype(np.float32), rng.random((2000, 64)).astype(np.float32)
    masked = np.asarray(rule.draw_mask(jnp.asarray(time), jnp.asarray(uniform)))
    expected = np.cos(np.pi / 2 * time)
    if masking == "count":
        np.testing.assert_allclose(masked.sum(1), np.maximum(1, 64 * expected), atol=0.501)
    else:
        z = (masked.mean(1) - expected) / np.sqrt(expected * (1 - expected) / 64 + 1e-6)
        assert abs(z.mean()) < 0.1 and 0.9 < z.std() < 1.1


@pytest.mark.parametrize("dropout, seen", [(0.0, {0}), (1.0, {1}), (0.5, {0, 1})])
def test_dropped_rows_train_with_the_null_condition(dropout, seen):
    features = []

    def apply(params, codes, condition, masked):
        features.extend(np.asarray(condition.features).tolist())
        return jnp.zeros((*codes.shape[:2], 5))

    rule = Masked(SPACE, condition_dropout=dropout)
    rule.loss(apply, {}, Latents(jnp.zeros((6, TOKENS, 2), jnp.int32)), condition(6), jax.random.key(0))
    assert set(features) == seen and len(features) == 6


# -- with a real network


def real_prior(space):
    network = MaskedTransformer(masked_vocab(space, 2), TOKENS, 1, 1, 4, 8)
    labels = network.class_condition(jnp.asarray([0, 1]))
    return Prior(network, Masked(space)), labels, jnp.ones((2, TOKENS, space.slots), jnp.int32)


def test_a_real_network_trains_and_samples_in_one_call():
    prior, labels, codes = real_prior(SPACE)
    params = filled(prior.network, codes, labels, jnp.zeros((2, TOKENS), bool))["params"]

    @jax.jit
    def everything(params, key):
        gradients = jax.grad(lambda params: prior.loss(params, Latents(codes), labels, key)[0])(params)
        given = Latents(codes, mask=jnp.zeros(codes.shape, bool).at[:, 1].set(True))
        settings = MaskedSettings(3, order="halton", guidance=2.0)
        return gradients, prior.sample(params, labels, key, given=given, settings=settings).codes

    gradients, drawn = everything(params, jax.random.key(0))
    # The keys' bias moves all scores of a query alike, so that nothing depends on it.
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    still = {path for path, leaf in flat.items() if np.abs(leaf).max() < 1e-6}
    assert all(np.isfinite(leaf).all() for leaf in flat.values())
    assert still == {path for path in flat if "'key']['bias'" in path}
    assert drawn.shape == codes.shape and (np.asarray(drawn) < np.asarray(SPACE.levels)).all()
    np.testing.assert_array_equal(drawn[:, 1], codes[:, 1])


@pytest.mark.parametrize("space", [CodeSpace.binary(3), SPACE], ids=lambda s: str(s.levels))
def test_any_space_can_be_masked(space):
    prior, labels, codes = real_prior(space)

    def everything(key):
        params = prior.init(key, Latents(codes), labels)
        return prior.loss(params, Latents(codes), labels, key)[0], prior.sample(params, labels, key).codes

    loss, drawn = jax.eval_shape(everything, jax.random.key(0))
    assert loss.shape == () and drawn.shape == codes.shape and drawn.dtype == jnp.int32


# -- settings


def test_named_samplers_are_those_of_their_papers():
    assert MaskedSettings.maskgit().guidance == 0 and MaskedSettings.maskgit().schedule == "cosine"
    assert MaskedSettings.titok(guidance_schedule="power-cosine").guidance_rule == "u+s(c-u)"
    assert MaskedSettings.halton(grid=(2, 2)).grid == (2, 2)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 4, "start": 4}, r"start=4 in \[0, 4\)"),
        ({"schedule": "sine"}, "mask schedule 'sine'"),
        ({"temperature": -1.0}, "temperature=-1.0 and choice_temperature"),
        ({"guidance_rule": "cfg"}, "guidance rule 'cfg'"),
        ({"top_p": 0.0}, "top_p=0.0 must lie in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskedSettings(**settings)


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"schedule": "sine"}, "mask schedule 'sine'"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must lie in \[0, 1\)"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        Masked(SPACE, **rule)


def test_a_grid_of_another_size_is_refused():
    settings = MaskedSettings.halton(grid=(3, 3))
    with pytest.raises(ValueError, match=r"grid=\(3, 3\) has 9 places, this prior 4"):
        jax.eval_shape(lambda: PRIOR.sample({}, condition(2), jax.random.key(0), settings=settings))
