import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.terms import Terms
from jaxtok.systems.usage_history import UsageHistory, counts_of
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig

CODES = np.array([[0, 0, 1], [2, 2, 2], [3, 0, 3], [0, 0, 0], [1, 1, 1], [2, 3, 2], [0, 1, 2]])


@dataclasses.dataclass(frozen=True)
class Chooser:
    """Takes the codes of the batch, from 4; state that counts its updates."""

    nested: bool = False
    counts: bool = True

    def init(self, key, batch, frozen):
        return {"params": {"w": jnp.ones(3)}, "quantizer": {"updates": jnp.int32(0)}}

    def loss(self, variables, batch, frozen, keys, step):
        counts = jnp.zeros(4).at[batch["codes"].reshape(-1)].add(1.0)
        statistics = {"counts": counts, "sums": jnp.zeros(2)} if self.counts else {"tokens": jnp.sum(counts)}
        statistics = {"quantizers_0": statistics} if self.nested else statistics
        return Terms(jnp.sum(jnp.square(variables["params"]["w"])), {}, statistics, {})

    def update_collections(self, collections, statistics, key):
        assert set(collections) == {"quantizer"}
        return {"quantizer": {"updates": collections["quantizer"]["updates"] + 1}}

    def summarise(self, statistics):
        return {"batch/tokens": jnp.sum(counts_of(statistics).get("counts", jnp.zeros(1)))}


def trained(objective, steps, micro_batches=1):
    update = gradient(objective, TrainConfig(steps=steps, ema_decay=0.0, micro_batches=micro_batches))
    batches = [{"codes": jnp.asarray(np.stack([codes, codes]))} for codes in CODES[:steps]]
    state = update.init(jax.random.key(0), batches[0], {})
    step = jax.jit(update)
    for batch in batches:
        state, _ = step(state, batch, {}, jax.random.key(1))
    return jax.device_get(state)


@pytest.mark.parametrize("nested", [False, True])
def test_windows_are_judged_when_they_are_over(nested):
    state = trained(UsageHistory(Chooser(nested), every=3, windows=3), 7)
    history = state["history"]
    # Codes 0 x 3, 1 x 1, 2 x 3, 3 x 2, then 0 x 3, 1 x 3, 2 x 2, 3 x 1.
    p = np.array([3, 1, 3, 2]) / 9
    perplexity = np.exp(-np.sum(p * np.log(p)))
    np.testing.assert_allclose(history["usage"], [1.0, 1.0, np.nan])
    np.testing.assert_allclose(history["perplexity"], [perplexity, perplexity, np.nan], rtol=1e-5)
    counts = history["counts"]["quantizers_0"]["counts"] if nested else history["counts"]["counts"]
    np.testing.assert_array_equal(counts, [2, 2, 2, 0])  # of the window that is not over
    assert history["step"] == 7 and state["quantizer"]["updates"] == 7


def test_windows_that_are_not_kept_change_nothing():
    history = trained(UsageHistory(Chooser(), every=1, windows=2), 7)["history"]
    np.testing.assert_allclose(history["usage"], [0.5, 0.25])
    assert trained(UsageHistory(Chooser(), every=10, windows=0), 3)["history"]["usage"].shape == (0,)


def test_micro_batches_count_like_one_batch():
    whole, parts = (trained(UsageHistory(Chooser(), 2, 3), 7, parts)["history"] for parts in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_an_objective_without_counts():
    with pytest.raises(ValueError, match=r"statistics with \['tokens'\] count no codes"):
        trained(UsageHistory(Chooser(counts=False), 2, 3), 1)
