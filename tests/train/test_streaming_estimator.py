import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents
from jaxtok.priors.independent import sample_independent
from jaxtok.systems.objectives import IndependentEstimator
from jaxtok.train.streaming_estimator import KMeans, streaming_estimator

KEY = jax.random.key(0)
CENTRES = np.array([[0, 0], [10, 0], [0, 10]], np.float32)


def blobs(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), rng.integers(3, size=27)])
    return {"x": jnp.asarray(CENTRES[labels] + 0.1 * rng.standard_normal((30, 2)), jnp.float32)}


def features(batch, frozen):
    return batch["x"]


def one_start_per_blob():
    """A key for which the first centres lie in different blobs: k-means finds only local minima."""
    start = jax.jit(streaming_estimator(KMeans(3, features)).init)
    for seed in range(100):
        state = start(jax.random.key(seed), blobs(0), {})
        if len({tuple(row) for row in np.round(np.asarray(state["params"]["centres"]) / 10)}) == 3:
            return state
    raise AssertionError("no such key")


def test_k_means_finds_the_centres_of_separate_blobs():
    update, state, seen = jax.jit(streaming_estimator(KMeans(3, features))), one_start_per_blob(), []
    for seed in range(8):
        state, metrics = update(state, blobs(seed), {}, KEY)
        seen.append(blobs(seed)["x"])
    points = np.concatenate(seen)
    nearest = np.argmin(((points[:, None] - CENTRES) ** 2).sum(-1), axis=1)
    expected = np.stack([points[nearest == k].mean(0) for k in range(3)])
    found = np.asarray(state["params"]["centres"])
    found = found[[np.argmin(((found - centre) ** 2).sum(-1)) for centre in CENTRES]]
    np.testing.assert_allclose(found, expected, atol=1e-4)  # each is the mean of all points that were its own
    assert state["step"] == 8 and state["params"]["counts"].sum() == 240
    assert metrics["inertia"] < 0.1 and metrics["usage"] == 1


def test_k_means_starts_from_different_points_and_needs_enough():
    centres = streaming_estimator(KMeans(30, features)).init(KEY, blobs(0), {})["params"]["centres"]
    assert len(np.unique(centres, axis=0)) == 30
    with pytest.raises(ValueError, match="30 points in the first batch, 31 clusters"):
        streaming_estimator(KMeans(31, features)).init(KEY, blobs(0), {})


def test_a_cluster_without_points_stays():
    state = {
        "step": jnp.int32(0),
        "params": {"centres": jnp.array([[0.0, 0], [99, 99]]), "counts": jnp.array([4.0, 0])},
    }
    state, metrics = jax.jit(streaming_estimator(KMeans(2, features)))(state, blobs(0), {}, KEY)
    np.testing.assert_array_equal(state["params"]["centres"][1], [99, 99])
    assert metrics["usage"] == 0.5


def fake_encode(variables, batch):
    """Codes that are written in the images."""
    return Latents(codes=batch["image"][..., 0].astype(jnp.int32) + variables)


def test_independent_estimator_counts_codes_per_class():
    space = CodeSpace((2, 3))
    update = streaming_estimator(IndependentEstimator(space, 2, 3, fake_encode))
    codes = np.array([[[0, 2], [1, 1]], [[1, 0], [1, 1]], [[0, 2], [0, 1]]], np.uint8)
    labels = np.array([2, 0, 2], np.int32)
    batch = {"image": jnp.asarray(codes)[..., None], "label": jnp.asarray(labels)}
    state = update.init(KEY, batch, {"tokenizer": 0})
    assert not state["params"]["counts"].any()
    step = jax.jit(update)
    for _ in range(2):
        state, metrics = step(state, batch, {"tokenizer": 0}, KEY)
    expected = np.zeros((3, 2, 5))
    for row, label in zip(codes, labels):
        for token, (first, second) in enumerate(row):
            expected[label, token, first] += 2
            expected[label, token, 2 + second] += 2
    np.testing.assert_array_equal(state["params"]["counts"], expected)
    assert metrics["images"] == 6

    rare = state["params"]["counts"] * 1e6  # smoothing adds half a count
    draw = jax.jit(lambda labels: sample_independent(rare, labels, space, KEY).codes)
    drawn = draw(jnp.array([0] * 200))
    np.testing.assert_array_equal(drawn, np.broadcast_to(codes[1], (200, 2, 2)))
    both = np.asarray(draw(jnp.array([2] * 200)))
    assert 60 < both[:, 1, 0].sum() < 140 and (both[:, 0] == [0, 2]).all()
