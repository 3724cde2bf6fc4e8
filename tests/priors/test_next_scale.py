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
    inputs = jax.jit(CODEC.next_inputs)(CODES)
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
        start = PRIOR.start(params, CONDITION, 14)
        static, parts = start, []
        for scale in range(3):
            logits, static = PRIOR.apply(
                params, static, padded[:, LAYOUT.scale(scale)], scale, method="step_scale"
            )
            parts.append(logits)
        # A step with each of two scales; back behind the first; then the two that follow at once.
        one, cache = PRIOR.step(params, start, padded[:, :1], positions[:, :1])
        two, cache = PRIOR.step(params, cache, padded[:, 1:5], positions[:, 1:5])
        both, cache = PRIOR.step(params, cache.keep(positions[:, :1]), padded[:, 1:], positions[:, 1:])
        return jnp.concatenate(parts, axis=1), one, two, both, cache.length

    static, one, two, both, length = run(params)
    np.testing.assert_allclose(static, base, atol=1e-5)
    np.testing.assert_allclose(one, base[:, :1], atol=1e-5)
    np.testing.assert_allclose(two, base[:, 1:5], atol=1e-5)
    np.testing.assert_allclose(both, base[:, 1:], atol=1e-5)
    np.testing.assert_array_equal(length, [14, 14])


def test_training_reads_what_sampling_reads(logits):
    @jax.jit
    def run():
        total, read = CODEC.start(2), []
        for scale in range(3):
            if scale:
                read.append(CODEC.inputs(total, scale))
            cells = CODEC.cell_values(CODES[:, LAYOUT.scale(scale)], scale)
            total = CODEC.add(total, cells, scale)
        return jnp.concatenate(read, axis=1), CODEC.finish(total), CODEC.embed(CODES), CODEC.codebook(1)

    inputs, values, embedded, codebook = run()
    np.testing.assert_allclose(inputs, logits[1], atol=1e-6)
    np.testing.assert_allclose(values, embedded, atol=1e-5)
    np.testing.assert_array_equal(codebook, CODEC.variables["params"]["scales"]["quantizers_0"]["codebook"])


def test_given_tokens_stay_and_are_seen(params):
    settings = NextScaleSettings(2.0, temperature=0.0)
    mask = np.zeros((2, 14, 1), bool)
    mask[:, :5] = True  # two scales
    mask[0, 9] = True  # and a cell of the last

    @jax.jit
    def run(params, given):
        def sample(settings):
            key = jax.random.key(0)
            return PRIOR.sample(params, CONDITION, key, given=given, settings=settings, codec=CODEC)

        drawn = sample(settings).codes
        # Of a single code that the rules leave a mixture is that code.
        smooth = sample(NextScaleSettings(2.0, top_k=1, smooth=True))
        conditional, unconditional = (
            PRIOR.apply(params, drawn, c, CODEC.next_inputs(drawn))
            for c in (CONDITION, CONDITION.unconditional())
        )
        strength = 2.0 * jnp.asarray(LAYOUT.levels, jnp.float32)[:, None] / 2
        return (
            drawn,
            jnp.argmax(conditional + strength * (conditional - unconditional), axis=-1),
            smooth,
            CODEC.embed(drawn),
        )

    drawn, likeliest, smooth, values = run(params, Latents(CODES, mask=jnp.asarray(mask)))
    np.testing.assert_array_equal(drawn[mask], CODES[mask])
    np.testing.assert_array_equal(drawn[~mask], likeliest[..., None][~mask])
    assert smooth.codes is None
    np.testing.assert_allclose(smooth.values, values, atol=1e-5)


def test_progressive_training_has_the_weights_of_the_recipe(params, logits):
    method = dataclasses.replace(PRIOR.method, condition_dropout=0.0)
    part = dataclasses.replace(method, trained_scales=2, newest_weight=0.25)

    @jax.jit
    def run(params):
        key = jax.random.key(0)
        return [r.loss(PRIOR.apply, params, Latents(CODES), CONDITION, key, CODEC) for r in (method, part)]

    (whole, metrics), (some, newest) = run(params)
    log_p = jax.nn.log_softmax(logits[2])
    nll = -np.take_along_axis(np.asarray(log_p), np.asarray(CODES), axis=-1)[..., 0].mean(axis=0)
    np.testing.assert_allclose(whole, nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(some, (nll[0] + 0.25 * nll[1:5].sum()) / 14, rtol=1e-5)
    np.testing.assert_allclose(newest["nll_last_scale"], nll[1:5].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["bits_per_token"], nll.mean() / np.log(2), rtol=1e-5)
    assert method.loss_name == "nll" and part.loss_name == "first_scales_loss"


def test_skipped_branches_add_nothing(params, logits):
    _, inputs, base = logits
    method = dataclasses.replace(PRIOR.method, drop_path=(0.0, 0.5))
    branches = np.asarray(jax.jit(method.draw_branches)(jax.random.split(jax.random.key(0), 400)))
    assert branches.shape == (2, 2, 400) and set(np.unique(branches[1])) == {0.0, 2.0}
    np.testing.assert_array_equal(branches[0], 1.0)
    assert abs(branches[1].mean() - 1) < 0.1
    apply = jax.jit(lambda p, b: PRIOR.apply(p, CODES, CONDITION, inputs, b))
    some = np.zeros((2, 2, 2), np.float32)
    some[:, :, 1] = 1
    kept = apply(params, some)
    np.testing.assert_allclose(kept[1], base[1], atol=1e-5)
    other = {**params, "stack": jax.tree.map(lambda x: 2 * x, params["stack"])}
    np.testing.assert_allclose(apply(other, some)[0], kept[0], atol=1e-5)


def test_a_fresh_network_passes_on_what_it_gets():
    small = {"heads": 8, "head_dim": 8, "hidden": 64, "conditioner": None}
    own, shared = prior_of(**small), prior_of(**small, shared_modulation=True)

    @jax.jit
    def run(key):
        params = own.init(key, Latents(CODES), None)
        method = dataclasses.replace(own.method, condition_dropout=0.0)
        nll = method.loss(own.apply, params, Latents(CODES), None, key, CODEC)[0]
        return params["stack"]["block"], nll, shared.init(key, Latents(CODES), None)["stack"]["block"]

    block, nll, other = run(jax.random.key(0))
    assert abs(nll - np.log(11)) < 1e-2
    attention, deviation = block["attention"], (3 * 64) ** -0.5
    np.testing.assert_allclose(attention["query"]["kernel"].std(), deviation, rtol=0.05)
    np.testing.assert_allclose(attention["out"]["kernel"].std(), deviation / 2, rtol=0.05)  # / sqrt(2 layers)
    np.testing.assert_allclose(attention["query_norm"]["scale"], np.log(4), rtol=1e-6)
    assert attention["key"].keys() == {"kernel"}
    parts = np.array([0.5, 0.5, 1e-5, 0.5, 0.5, 1e-5])
    kernel = np.asarray(block["modulation"]["linear"]["kernel"]).reshape(2, 64, 6, 64)
    np.testing.assert_allclose(kernel.std(axis=(0, 1, 3)), deviation * parts, rtol=0.1)
    vectors = np.asarray(other["modulation_offset"])
    np.testing.assert_allclose(vectors.std(axis=(0, 2)), 64**-0.5 * parts, rtol=0.3)


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
        dataclasses.replace(PRIOR.method, trained_scales=4)
    with pytest.raises(ValueError, match=r"drop_path=\(1.0,\)"):
        dataclasses.replace(PRIOR.method, drop_path=(1.0,))
    with pytest.raises(ValueError, match="temperature=-1"):
        NextScaleSettings(temperature=-1.0)
