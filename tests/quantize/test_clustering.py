import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.clustering import KMeansQuantizer, from_centres
from tests.filled import normal
from tests.quantize.golden import close

CENTRES = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)


def blobs(seed=0):
    """Points around four centres, and the centre of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (4, 50))
    return jnp.asarray(CENTRES[labels] + 0.3 * rng.standard_normal((4, 50, 2)), jnp.float32), labels


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_codes_are_the_nearest_centres(metric):
    quantizer, z = KMeansQuantizer(codes=5, width=3, metric=metric), normal(2, 6, 3)

    @jax.jit
    def run(z):
        state = quantizer.init(jax.random.key(0), z)
        return state, quantizer.apply(state, z)

    state, out = jax.device_get(run(z))
    centres, points = state["quantizer"]["codebook"], np.asarray(z)[..., None, :]
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(centres, axis=-1), 1, atol=1e-6)
        points = points / np.linalg.norm(points, axis=-1, keepdims=True)
    np.testing.assert_array_equal(out.codes[..., 0], np.sum((points - centres) ** 2, -1).argmin(-1))
    close(out.statistics["error"], np.sum((points - centres) ** 2, -1).min(-1).sum())
    close(out.values, centres[out.codes[..., 0]])


def test_blobs_are_found_and_stay():
    z, labels = blobs()
    quantizer = KMeansQuantizer(codes=4, width=2)

    @jax.jit
    def step(state):
        out = quantizer.apply({"quantizer": state}, z)
        return out, quantizer.update(state, out.statistics, jax.random.key(0))

    out, state = step(from_centres(CENTRES + 2))
    out, state = step(state)
    np.testing.assert_array_equal(out.codes[..., 0], labels)
    np.testing.assert_allclose(state["codebook"], CENTRES, atol=0.3)
    start = lambda state, **options: quantizer.initialise(state, z, jax.random.key(0), **options)
    fitted = jax.jit(start)(from_centres(CENTRES + 2))
    again = jax.jit(functools.partial(start, iterations=21))(fitted)
    close(fitted["codebook"], again["codebook"])  # converged
    assert fitted["counts"].sum() == 200


def test_updates_are_means_of_everything_that_was_assigned():
    quantizer = KMeansQuantizer(codes=2, width=1)
    state = from_centres(np.array([[0.0], [10.0]], np.float32))

    @jax.jit
    def step(state, z, mask):
        statistics = quantizer.apply({"quantizer": state}, z, mask=mask).statistics
        return quantizer.update(state, statistics, jax.random.key(0))

    for batch in ([1.0, 2.0, 11.0], [3.0, 9.0], [2.0]):
        mask = np.arange(3) < len(batch)
        z = np.pad(np.array(batch, np.float32), (0, 3 - len(batch)))
        state = step(state, z[None, :, None], mask[None])
    close(state["codebook"], np.array([[2.0], [10.0]]))
    np.testing.assert_array_equal(state["counts"], [4, 2])


def test_micro_batches_update_like_one_batch():
    z, _ = blobs()
    quantizer, state = KMeansQuantizer(codes=4, width=2), from_centres(CENTRES + 1, np.full(4, 3.0))
    run = jax.jit(lambda z: quantizer.apply({"quantizer": state}, z).statistics)
    update = jax.jit(lambda statistics: quantizer.update(state, statistics, jax.random.key(0)))
    summed = jax.tree.map(lambda *leaves: sum(leaves), *(run(z[i : i + 1]) for i in range(4)))
    once, four = (update(s) for s in (run(z), summed))
    jax.tree.map(close, once, four)


def test_masked_tokens_have_no_effect():
    quantizer, (z, _) = KMeansQuantizer(codes=4, width=2), blobs()
    mask = jnp.broadcast_to(jnp.arange(50) < 30, (4, 50))

    @jax.jit
    def run(z):
        state = quantizer.initialise(from_centres(CENTRES), z, jax.random.key(0), mask)
        return state, quantizer.apply({"quantizer": state}, z, mask=mask)

    a, b = run(z), run(jnp.where(mask[..., None], z, 1e3))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert a[1].statistics["counts"].sum() == 120
