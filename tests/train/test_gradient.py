import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import keys as random
from jaxtok.losses.terms import Terms
from jaxtok.train.gradient import GRADIENT_NORM, accumulate, gradient
from jaxtok.train.optimizer import ema
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import PRIOR_RULES, TOKENIZER_RULES, MeshShape
from jaxtok.train.stage import collections_of, inference_variables
from tests.small_system import (
    FIT,
    SMALL,
    SMALL_VQ,
    assert_trees_close,
    prior_update,
    random_like,
    small_batch,
    take_steps,
    tokenizer_update,
)

BATCHES = [small_batch(seed=0), small_batch(seed=1)]
UPDATES = {
    "binary": lambda fit: tokenizer_update(SMALL, fit),
    "vq": lambda fit: tokenizer_update(SMALL_VQ, fit),
    "diffusion": lambda fit: prior_update("diffusion", fit=fit),
    "autoregressive": lambda fit: prior_update("autoregressive", fit=fit),
    "autoregressive of vq": lambda fit: prior_update("autoregressive", SMALL_VQ, fit),
}
RULES = {name: TOKENIZER_RULES if name in ("binary", "vq") else PRIOR_RULES for name in UPDATES}


@pytest.fixture(scope="module")
def frozen():
    """name -> the variables of its tokenizer."""

    def tokenizer(name):
        model = SMALL_VQ if "vq" in name else SMALL
        return {"tokenizer": random_like(model.shapes()["tokenizer"])}

    return {name: tokenizer(name) for name in UPDATES}


@pytest.fixture(scope="module")
def reference(frozen):
    """name -> (state, metrics) after two steps on one device, each trained once."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = take_steps(UPDATES[name](FIT), BATCHES, frozen[name])
        return done[name]

    return run


def on_mesh(name, shape, frozen, fit=FIT):
    return take_steps(UPDATES[name](fit), BATCHES, frozen[name], MeshShape(*shape), RULES[name])


def close(found, expected, tolerance):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    assert_trees_close(state, expected_state, tolerance)
    assert_trees_close(metrics, expected_metrics, tolerance)


# Every combination compiles a step. The tokenizer that has state goes through all paths: micro-batches alone
# and on a mesh, and meshes with and without each axis.


def marked(mark, *names):
    return [pytest.param(name, marks=mark) for name in names]


OTHERS = [name for name in UPDATES if name != "vq"]


@pytest.mark.parametrize("name", ["vq", *marked(pytest.mark.slow, *OTHERS)])
def test_micro_batches_on_a_mesh_equal_one_batch_on_one_device(name, reference, frozen):
    fit = dataclasses.replace(FIT, micro_batches=2)
    close(on_mesh(name, (2, 2, 2), frozen, fit), reference(name), 1e-5)


@pytest.mark.parametrize("name", [*marked(pytest.mark.slow, "vq"), *marked(pytest.mark.exhaustive, *OTHERS)])
def test_four_micro_batches_equal_one_batch(name, reference, frozen):
    found = take_steps(UPDATES[name](dataclasses.replace(FIT, micro_batches=4)), BATCHES, frozen[name])
    close(found, reference(name), 1e-6)


MESHES = [(2, 2, 2), (8, 1, 1), (2, 4, 1)]
# On the first, micro-batches are tested above.
SLOW = [("vq", (8, 1, 1)), ("vq", (2, 4, 1)), ("autoregressive", (2, 4, 1))]


@pytest.mark.parametrize(
    "name, shape",
    [
        pytest.param(
            *case,
            id=f"{case[0]}-{'x'.join(map(str, case[1]))}",
            marks=pytest.mark.slow if case in SLOW else pytest.mark.exhaustive,
        )
        for case in itertools.product(UPDATES, MESHES)
    ],
)
def test_any_mesh_equals_one_device(name, shape, reference, frozen):
    close(on_mesh(name, shape, frozen), reference(name), 1e-5)


def test_what_a_step_changes(reference):
    state, metrics = reference("vq")
    assert state["step"] == 2
    assert set(collections_of(state)) == {"quantizer"}
    assert inference_variables(state)["params"] is state["ema"]
    assert metrics[1]["batch/perplexity"] >= 1
    norms = {name: value for name, value in metrics[1].items() if name.startswith(GRADIENT_NORM)}
    total = np.sqrt(sum(value**2 for value in norms.values()))
    np.testing.assert_allclose(metrics[1]["norm/gradients"], total, rtol=1e-5)


# The rest needs no network: minimise mean (w x - y)^2, with one frozen offset.


@dataclasses.dataclass(frozen=True)
class Line:
    def init(self, key, batch, frozen):
        return {"params": {"slope": jnp.float32(0), "offset": jnp.float32(1)}, "counter": jnp.int32(0)}

    def loss(self, variables, batch, frozen, keys, step):
        params = variables["params"]
        noise = random.normal(keys, ())
        error = params["slope"] * batch["x"] + params["offset"] - batch["y"] + 0.1 * noise
        loss = jnp.mean(error**2)
        return Terms(loss, {"loss/square": loss}, {"seen": jnp.float32(len(batch["x"]))}, {"big": error})

    def update_collections(self, collections, statistics, key):
        return {**collections, "counter": collections["counter"] + statistics["seen"].astype(jnp.int32)}

    def summarise(self, statistics):
        return {"seen": statistics["seen"]}


KEY = jax.random.key(0)
LINE_BATCH = {"x": np.arange(1, 9, dtype=np.float32), "y": np.arange(1, 9, dtype=np.float32) * 2}


def test_average_follows_the_parameters():
    fit = TrainConfig(steps=10, learning_rate=0.1, warmup_steps=0, schedule="constant", ema_decay=0.9)
    update = gradient(Line(), fit)
    take_step, follow = jax.jit(update), jax.jit(lambda a, now, step: ema(a, now, 0.9, step))
    state, average = update.init(KEY, LINE_BATCH, {}), jnp.float32(0)
    for step in range(5):
        state, metrics = take_step(state, LINE_BATCH, {}, KEY)
        average = follow(average, state["params"]["slope"], jnp.int32(step))
        np.testing.assert_allclose(state["ema"]["slope"], average, rtol=1e-6)
        assert 0 < average < state["params"]["slope"]
    assert state["counter"] == 40 and metrics["seen"] == 8


def test_no_average_without_a_decay():
    state = gradient(Line(), TrainConfig(ema_decay=0.0)).init(KEY, LINE_BATCH, {})
    assert "ema" not in state and inference_variables(state)["params"] == state["params"]


def test_frozen_groups_keep_their_values():
    fit = TrainConfig(
        steps=10, learning_rate=0.1, warmup_steps=0, weight_decay=0.5, groups=(("offset", 0.0),)
    )
    update = gradient(Line(), fit)
    state, take_step = update.init(KEY, LINE_BATCH, {}), jax.jit(update)
    for _ in range(3):
        state, _ = take_step(state, LINE_BATCH, {}, KEY)
    assert state["params"]["offset"] == 1 and state["ema"]["offset"] == 1
    assert state["params"]["slope"] != 0


def test_accumulation_sums_statistics_and_averages_the_rest():
    line = Line()
    state = line.init(None, None, None)

    def loss(params, batch, keys):
        terms = line.loss({"params": params}, batch, {}, keys, 0)
        return terms.total, dataclasses.replace(terms, outputs={})

    in_parts = jax.jit(
        lambda params, batch, key: [accumulate(loss, params, batch, key, parts) for parts in (1, 4)]
    )
    (whole, terms), (parts, sums) = in_parts(state["params"], LINE_BATCH, KEY)
    assert_trees_close(parts, whole, 1e-6)
    assert_trees_close(sums, terms, 1e-6)
    assert sums.statistics["seen"] == 8
    with pytest.raises(ValueError, match="a batch of 8 does not divide into micro_batches=3"):
        accumulate(loss, state["params"], LINE_BATCH, KEY, 3)


def test_each_step_has_its_own_noise():
    update = gradient(Line(), TrainConfig(steps=10, learning_rate=1e-9, ema_decay=0.0))
    state, take_step = update.init(KEY, LINE_BATCH, {}), jax.jit(update)
    losses = []
    for _ in range(2):
        state, metrics = take_step(state, LINE_BATCH, {}, KEY)
        losses.append(float(metrics["loss/square"]))
    assert losses[0] != losses[1]
