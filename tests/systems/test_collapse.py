import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.systems.analysis.collapse import DROPOUT, SINGLE, CodeCounter, Collapse
from jaxtok.systems.objectives import TokenizerObjective, TokenizerWeights
from jaxtok.systems.usage_history import UsageHistory
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import Fit
from jaxtok.train.stage import inference_variables

SIZES = Collapse(
    image_size=8,
    patch=2,
    width=6,
    hidden=5,
    layers=1,
    codes=16,
    code_width=4,
    levels=(4, 4),
    residual_codes=8,
    depths=(1, 3),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)


@functools.cache
def three_steps(name):
    objective = TokenizerObjective(
        SIZES.arm(name).tokenizer(),
        TokenizerWeights(pixels="l2"),
        temperature=0.0,
        codebook_from_data=SIZES.from_data(name),
    )
    update = gradient(UsageHistory(objective, 3, 1), Fit(steps=3, warmup_steps=0, ema_decay=0.0))
    batch, key = {"image": jnp.asarray(IMAGES)}, jax.random.key(0)
    start = state = jax.jit(update.init)(key, batch, {})
    step, losses = jax.jit(update), []
    for _ in range(3):
        state, metrics = step(state, batch, {}, key)
        losses.append(float(metrics["loss/l2"]))
    return start, state, inference_variables(state), losses


@pytest.mark.parametrize("name", SIZES.arms)
def test_three_steps_of_each_arm(name):
    start, state, variables, losses = three_steps(name)
    assert all(np.isfinite(losses)) and int(state["step"]) == 3
    for part in ("encoder", "decoder"):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), start["params"][part], state["params"][part])
        assert any(jax.tree.leaves(moved))
    assert 0 < float(state["history"]["usage"][0]) <= 1
    model = SIZES.arm(name)
    latents = model.encode(variables, jnp.asarray(IMAGES))
    assert latents.codes.shape == (4, 16, model.space.slots)
    assert int(latents.codes.max()) < model.space.levels[0]
    images = model.decode(variables, latents, (8, 8))
    assert images.shape == IMAGES.shape
    # Joining codes and taking them apart loses nothing.
    np.testing.assert_allclose(images, model.tokenizer().apply(variables, IMAGES).x_hat, atol=1e-5)


def test_all_arms_have_the_same_alphabet_and_autoencoder():
    assert {SIZES.arm(name).space.levels for name in SINGLE} == {(16,)}
    assert {SIZES.arm(name).space.levels for name in SIZES.residual} == {(8,), (8, 8, 8)}
    shapes = SIZES.shapes()
    assert tuple(shapes) == SIZES.arms
    for part in ("encoder", "decoder"):
        parts = [jax.tree.map(lambda x: x.shape, shapes[name]["params"][part]) for name in SIZES.arms]
        assert all(other == parts[0] for other in parts)


def test_k_means_starts_where_the_features_are():
    start = inference_variables(three_steps("revived")[0])
    features = SIZES.arm("revived").tokenizer().apply(start, IMAGES, method="features").reshape(-1, 6)
    codebook = start["quantizer"]["quantizer"]["codebook"]
    nearest = np.linalg.norm(features[:, None] - codebook[None], axis=-1).min(axis=0)
    assert nearest.max() < np.linalg.norm(features - features.mean(0), axis=-1).mean()
    assert "quantizer" not in three_steps("plain")[0]


def test_a_stack_decodes_its_first_codes():
    variables = three_steps(DROPOUT)[2]
    model = SIZES.arm(DROPOUT)
    codes = model.encode(variables, jnp.asarray(IMAGES)).codes
    one, all_three = model.decode(variables, codes[..., :1]), model.decode(variables, codes)
    assert one.shape == all_three.shape and not np.allclose(one, all_three)


def test_code_counter_counts_every_model():
    names = ("plain", "fsq")
    models = tuple((name, SIZES.arm(name)) for name in names)
    counter, batch = CodeCounter(models), {"image": jnp.asarray(IMAGES)}
    frozen = {name: three_steps(name)[2] for name in names}
    params = counter.init(jax.random.key(0), batch, frozen)
    for _ in range(2):
        params, metrics = jax.jit(counter.update)(params, batch, frozen, jax.random.key(0))
    assert float(metrics["tokens"]) == 2 * 4 * 16
    for name, model in models:
        codes = np.asarray(model.encode(frozen[name], jnp.asarray(IMAGES)).codes).ravel()
        np.testing.assert_array_equal(params[name], 2 * np.bincount(codes, minlength=16)[None])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"levels": (4, 5)}, "equal alphabets"),
        ({"codes": 15, "levels": (3, 5)}, "a power of 2"),
        ({"depths": (2, 1)}, "have to rise"),
    ],
)
def test_sizes_that_cannot_be_compared(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SIZES, **changes)


def test_unknown_arm_and_no_codebook():
    with pytest.raises(ValueError, match="no arm 'rvq_2'"):
        SIZES.quantizer("rvq_2")
    objective = TokenizerObjective(SIZES.arm("fsq").tokenizer(), temperature=0.0, codebook_from_data=True)
    with pytest.raises(ValueError, match="FSQ has no codebook that k-means could initialise"):
        objective.init(jax.random.key(0), {"image": jnp.asarray(IMAGES)}, {})
