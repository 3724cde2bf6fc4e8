"""Identities of next-scale priors, on scales of 1, 2 and 3 cells a side."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.nn.prefix_transformer import ClassPrefix
from jaxtok.nn.scale_transformer import ScaleTransformer
from jaxtok.priors.contract import Prior
from jaxtok.priors.next_scale import NextScale, NextScaleSettings
from jaxtok.quantize.multi_scale import multi_scale_vq
from jaxtok.tokenizers.scale_grid import ScaleCodec, ScaleGridQuantizer
from tests.filled import draw_like, filled, normal

QUANTIZER = ScaleGridQuantizer(multi_scale_vq((1, 2, 3), 11, 4, phis=2))
SPACE, LAYOUT = QUANTIZER.space, QUANTIZER.layout
CODEC = ScaleCodec(QUANTIZER, filled(QUANTIZER, normal(1, 9, 4)))
CODES = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 14, 1)), jnp.int32)
CONDITION = ClassPrefix(5, 8).condition(jnp.asarray([3, 1]))


def prior_of(**network):
    shape = {
        "layers": 2,
        "heads": 2,
        "head_dim": 4,
        "hidden": 12,
        "conditioner": ClassPrefix(5, 8),
        **network,
    }
    return Prior(ScaleTransformer(SPACE, LAYOUT, 4, **shape), NextScale(SPACE, LAYOUT, 4))


PRIOR = prior_of()


@pytest.fixture(scope="module")
def params():
    return draw_like(jax.eval_shape(PRIOR.init, jax.random.key(0), Latents(CODES), CONDITION))


@pytest.fixture(scope="module")
def logits(params):
    apply = jax.jit(lambda p, inputs: PRIOR.apply(p, CODES, CONDITION, inputs))
    inputs = CODEC.next_inputs(CODES)
    return apply, inputs, apply(params, inputs)


def test_a_token_sees_its_scale_and_those_before(params, logits):
    apply, inputs, base = logits
    for place in (0, 3, 4, 12):  # of the inputs, which begin with the second scale
        moved = apply(params, inputs.at[:, place].add(1.0))
        changed = np.abs(moved - base).max(axis=(0, 2)) > 1e-6
        np.testing.assert_array_equal(changed, LAYOUT.levels >= LAYOUT.levels[place + 1])


def test_steps_with_a_cache_give_what_the_whole_gives(params, logits):
    _, inputs, base = logits
    padded = jnp.pad(inputs, ((0, 0), (1, 0), (0, 0)))
    positions = jnp.broadcast_to(jnp.arange(14), (2, 14))

    @jax.jit
    def run(params):
        cut = PRIOR.start(params, CONDITION, 14)
        static, parts = cut, []
        for scale in range(3):
            at = LAYOUT.scale(scale)
            one, cut = PRIOR.step(params, cut, padded[:, at], positions[:, at])
            other, static = PRIOR.apply(params, static, padded[:, at], scale, method="step_scale")
            parts.append((one, other))
        # The last scale once more, after a step back; then two scales at once.
        back = cut.keep(positions[:, :5])
        again, _ = PRIOR.step(params, back, padded[:, 5:], positions[:, 5:])
        start = PRIOR.start(params, CONDITION, 14)
        _, first = PRIOR.step(params, start, padded[:, :1], positions[:, :1])
        joint, _ = PRIOR.step(params, first, padded[:, 1:], positions[:, 1:])
        return [jnp.concatenate(x, axis=1) for x in zip(*parts)], again, joint, cut.length

    (dynamic, static), again, joint, length = run(params)
    np.testing.assert_allclose(dynamic, base, atol=1e-5)
    np.testing.assert_allclose(static, base, atol=1e-5)
    np.testing.assert_allclose(again, base[:, 5:], atol=1e-5)
    np.testing.assert_allclose(joint, base[:, 1:], atol=1e-5)
    np.testing.assert_array_equal(length, [14, 14])


def test_training_reads_what_sampling_reads():
    @jax.jit
    def run():
        total, read = CODEC.start(2), []
        for scale in range(3):
            if scale:
                read.append(CODEC.inputs(total, scale))
            cells = CODEC.cell_values(CODES[:, LAYOUT.scale(scale)], scale)
            total = CODEC.add(total, cells, scale)
        return jnp.concatenate(read, axis=1), CODEC.finish(total)

    inputs, values = run()
    np.testing.assert_allclose(inputs, CODEC.next_inputs(CODES), atol=1e-6)
    np.testing.assert_allclose(values, CODEC.embed(CODES), atol=1e-5)
    np.testing.assert_array_equal(
        CODEC.codebook(1), CODEC.variables["params"]["scales"]["quantizers_0"]["codebook"]
    )


def test_given_tokens_stay_and_are_seen(params):
    settings = NextScaleSettings(2.0, temperature=0.0)
    mask = np.zeros((2, 14, 1), bool)
    mask[:, :5] = True  # two scales
    mask[0, 9] = True  # and a cell of the last

    @jax.jit
    def run(params, given):
        sample = lambda **k: PRIOR.sample(
            params, CONDITION, jax.random.key(0), settings=settings, codec=CODEC, **k
        )
        drawn = sample(given=given).codes
        told, untold = (
            PRIOR.apply(params, drawn, c, CODEC.next_inputs(drawn))
            for c in (CONDITION, CONDITION.unconditional())
        )
        strength = 2.0 * jnp.asarray(LAYOUT.levels, jnp.float32)[:, None] / 2
        return drawn, jnp.argmax(told + strength * (told - untold), axis=-1)

    drawn, likeliest = run(params, Latents(CODES, mask=jnp.asarray(mask)))
    np.testing.assert_array_equal(drawn[mask], CODES[mask])
    np.testing.assert_array_equal(drawn[~mask], likeliest[..., None][~mask])


def test_smooth_samples_are_values(params):
    given = Latents(CODES, mask=jnp.ones((2, 14, 1), bool))

    @jax.jit
    def run(params, given):
        settings = NextScaleSettings(0.0, top_k=1, smooth=True)
        sample = lambda **k: PRIOR.sample(
            params, CONDITION, jax.random.key(0), settings=settings, codec=CODEC, **k
        )
        hard = dataclasses.replace(settings, smooth=False)
        codes = PRIOR.sample(params, CONDITION, jax.random.key(0), settings=hard, codec=CODEC).codes
        return sample(given=given), sample(), codes

    kept, soft, codes = run(params, given)
    assert kept.codes is None and kept.values.shape == (2, 9, 4)
    np.testing.assert_allclose(kept.values, CODEC.embed(CODES), atol=1e-5)
    # Of one code that is left a mixture is that code.
    np.testing.assert_allclose(soft.values, CODEC.embed(codes), atol=1e-5)


def test_progressive_training_has_the_weights_of_the_recipe(params):
    rule = dataclasses.replace(PRIOR.rule, condition_dropout=0.0)
    loss = lambda rule: rule.loss(PRIOR.apply, params, Latents(CODES), CONDITION, jax.random.key(0), CODEC)

    @jax.jit
    def run(params):
        part = dataclasses.replace(rule, trained_scales=2, newest_weight=0.25)
        return loss(rule), loss(part), PRIOR.apply(params, CODES, CONDITION, CODEC.next_inputs(CODES))

    (whole, metrics), (part, newest), logits = run(params)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), CODES, axis=-1)[..., 0].mean(axis=0)
    np.testing.assert_allclose(whole, nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(part, (nll[0] + 0.25 * nll[1:5].sum()) / 14, rtol=1e-5)
    np.testing.assert_allclose(newest["nll_last_scale"], nll[1:5].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["bits_per_token"], nll.mean() / np.log(2), rtol=1e-5)


def test_skipped_branches_add_nothing(params, logits):
    rule = dataclasses.replace(PRIOR.rule, drop_path=(0.0, 0.5))
    branches = rule.draw_branches(jax.random.split(jax.random.key(0), 400))
    assert branches.shape == (2, 2, 400) and set(np.unique(branches[1])) == {0.0, 2.0}
    np.testing.assert_array_equal(branches[0], 1.0)
    assert abs(branches[1].mean() - 1) < 0.1
    _, inputs, base = logits
    apply = jax.jit(lambda p, b: PRIOR.apply(p, CODES, CONDITION, inputs, b))
    np.testing.assert_allclose(apply(params, jnp.ones((2, 2, 2))), base, atol=1e-5)
    gone = apply(params, jnp.zeros((2, 2, 2)).at[:, :, 1].set(1.0))
    np.testing.assert_allclose(gone[1], base[1], atol=1e-5)
    stack = params["stack"]
    other = {**params, "stack": jax.tree.map(lambda x: 2 * x, stack)}
    np.testing.assert_allclose(apply(other, jnp.zeros((2, 2, 2)))[0], gone[0], atol=1e-5)


def test_a_fresh_network_passes_on_what_it_gets():
    deep = prior_of(heads=16, head_dim=8, conditioner=None)
    shared = prior_of(heads=16, head_dim=8, conditioner=None, shared_modulation=True)

    @jax.jit
    def run(key):
        out = []
        for prior in (deep, shared):
            params = prior.init(key, Latents(CODES), None)
            nll = dataclasses.replace(prior.rule, condition_dropout=0.0).loss(
                prior.apply, params, Latents(CODES), None, key, CODEC
            )[0]
            out.append((params, nll))
        return out

    for params, nll in run(jax.random.key(0)):
        assert abs(nll - np.log(11)) < 1e-2
        block = params["stack"]["block"]
        assert abs(block["attention"]["query"]["kernel"].std() * (3 * 128) ** 0.5 - 1) < 0.02
        assert abs(block["attention"]["out"]["kernel"].std() * (2 * 2 * 3 * 128) ** 0.5 - 1) < 0.02
        assert block["attention"]["key"].keys() == {"kernel"}
    fresh, own = (x[0]["stack"]["block"] for x in run(jax.random.key(0)))
    kernel = fresh["modulation"]["linear"]["kernel"].reshape(2, 128, 6, 128)
    for vectors, deviation in (
        (kernel.std(axis=(0, 1, 3)), (3 * 128) ** -0.5),
        (own["modulation_offset"].std(axis=(0, 2)), 128**-0.5),
    ):
        expected = deviation * np.array([0.5, 0.5, 1e-5, 0.5, 0.5, 1e-5])
        np.testing.assert_allclose(vectors, expected, rtol=0.2)


def test_what_a_prior_cannot_use_is_refused(params):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="codec=None: a next-scale prior reads"):
        PRIOR.loss(params, Latents(CODES), CONDITION, key)
    other = ScaleCodec(ScaleGridQuantizer(multi_scale_vq((1, 3), 11, 4, phis=2)), CODEC.variables)
    with pytest.raises(ValueError, match=r"the tokenizer has the scales \(\(1, 1\), \(3, 3\)\)"):
        PRIOR.sample(params, CONDITION, key, codec=other)
    with pytest.raises(ValueError, match="inputs are int32, codes perhaps"):
        jax.eval_shape(
            lambda p: PRIOR.step(
                p, PRIOR.start(p, CONDITION, 14), CODES[:, :1], jnp.zeros((2, 1), jnp.int32)
            ),
            params,
        )
    with pytest.raises(ValueError, match="4 inputs for 14 tokens; all but the 1"):
        jax.eval_shape(lambda p: PRIOR.apply(p, CODES, CONDITION, CODEC.next_inputs(CODES[:, :1])), params)
    with pytest.raises(ValueError, match="this prior needs a condition"):
        jax.eval_shape(lambda p: PRIOR.apply(p, CODES, None, CODEC.next_inputs(CODES)), params)
    with pytest.raises(ValueError, match="trained_scales=4 must lie in 0"):
        dataclasses.replace(PRIOR.rule, trained_scales=4)
    with pytest.raises(ValueError, match=r"drop_path=\(1.0,\)"):
        dataclasses.replace(PRIOR.rule, drop_path=(1.0,))
    with pytest.raises(ValueError, match="temperature=-1"):
        NextScaleSettings(temperature=-1.0)
