import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.systems.analysis.collapse import DROPOUT, SINGLE, CodeCounter, Collapse
from jaxtok.systems.objectives import TokenizerObjective, TokenizerWeights, objective_for
from jaxtok.systems.usage_history import UsageHistory
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
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
def trained(name):
    """Three steps of an arm, and what its model does before and after, in one compiled call."""
    model = SIZES.arm(name)
    objective = objective_for(SIZES.quantizer_of(name))(
        model.tokenizer(),
        TokenizerWeights(reconstruction="l2"),
    )
    update = gradient(UsageHistory(objective, 3, 1), TrainConfig(steps=3, warmup_steps=0, ema_decay=0.0))
    batch, key = {"image": jnp.asarray(IMAGES)}, jax.random.key(0)

    @jax.jit
    def run():
        start = update.init(key, batch, {})

        def step(state, _):
            state, metrics = update(state, batch, {}, key)
            return state, metrics["loss/l2"]

        state, losses = jax.lax.scan(step, start, None, 3)
        before, variables, tokenizer = (
            inference_variables(start),
            inference_variables(state),
            model.tokenizer(),
        )
        latents = model.encode_images(variables, batch["image"])
        return {
            "start": start,
            "state": state,
            "losses": losses,
            "variables": variables,
            "first features": tokenizer.apply(before, batch["image"], method="features"),
            "codes": latents.codes,
            "images": model.decode_images(variables, latents, (8, 8)),
            "images of the first codes": model.decode_images(variables, latents.codes[..., :1], (8, 8)),
            "x_hat": tokenizer.apply(variables, batch["image"]).x_hat,
        }

    return run()


SLOW, EXHAUSTIVE = {"cosine", "simvq", "lfq", "rvq_1", "rvq_3"}, {"lfq_no_diversity"}  # LFQ without one loss


def marked(name):
    marks = [pytest.mark.slow] if name in SLOW else [pytest.mark.exhaustive] if name in EXHAUSTIVE else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in SIZES.arms])
def test_three_steps_of_each_arm(name):
    found, model = trained(name), SIZES.arm(name)
    start, state = found["start"], found["state"]
    assert np.isfinite(found["losses"]).all() and int(state["step"]) == 3
    for part in ("encoder", "decoder"):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), start["params"][part], state["params"][part])
        assert any(jax.tree.leaves(moved))
    assert 0 < float(state["history"]["usage"][0]) <= 1
    assert found["codes"].shape == (4, 16, model.space.slots)
    assert int(found["codes"].max()) < model.space.levels[0]
    assert found["images"].shape == IMAGES.shape
    # Joining codes and taking them apart loses nothing.
    np.testing.assert_allclose(found["images"], found["x_hat"], atol=1e-5)


def test_all_arms_have_the_same_alphabet_and_autoencoder():
    assert {SIZES.arm(name).space.levels for name in SINGLE} == {(16,)}
    assert {SIZES.arm(name).space.levels for name in SIZES.residual} == {(8,), (8, 8, 8)}
    shapes = SIZES.shapes()
    assert tuple(shapes) == SIZES.arms
    for part in ("encoder", "decoder"):
        parts = [jax.tree.map(lambda x: x.shape, shapes[name]["params"][part]) for name in SIZES.arms]
        assert all(other == parts[0] for other in parts)


def test_k_means_starts_where_the_features_are():
    start, features = trained("revived")["start"], np.asarray(trained("revived")["first features"])
    features, codebook = features.reshape(-1, 6), start["quantizer"]["quantizer"]["codebook"]
    nearest = np.linalg.norm(features[:, None] - codebook[None], axis=-1).min(axis=0)
    assert nearest.max() < np.linalg.norm(features - features.mean(0), axis=-1).mean()
    assert "quantizer" not in trained("plain")["start"]


def test_a_stack_decodes_its_first_codes():
    one, all_three = (trained(DROPOUT)[key] for key in ("images of the first codes", "images"))
    assert one.shape == all_three.shape and not np.allclose(one, all_three)


def test_code_counter_counts_every_model():
    names = ("plain", "fsq")
    models = tuple((name, SIZES.arm(name)) for name in names)
    counter, batch = CodeCounter(models), {"image": jnp.asarray(IMAGES)}
    frozen = {name: trained(name)["variables"] for name in names}
    params, update = counter.init(jax.random.key(0), batch, frozen), jax.jit(counter.update)
    for _ in range(2):
        params, metrics = update(params, batch, frozen, jax.random.key(0))
    assert float(metrics["tokens"]) == 2 * 4 * 16
    for name in names:
        codes = np.asarray(trained(name)["codes"]).ravel()
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
        SIZES.quantizer_of("rvq_2")
    objective = TokenizerObjective(SIZES.arm("fsq").tokenizer(), temperature=0.0, codebook_from_data=True)
    with pytest.raises(ValueError, match="FSQ has no codebook that k-means could initialise"):
        jax.eval_shape(objective.init, jax.random.key(0), {"image": jnp.asarray(IMAGES)}, {})
