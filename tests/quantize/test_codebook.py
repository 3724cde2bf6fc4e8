import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.quantize.codebook import kmeans, moving_average_update, random_points
from jaxtok.quantize.vq_losses import orthogonality
from tests.filled import normal

CODES = normal(6, 3)
MOVE = jax.jit(lambda state, statistics: moving_average_update(state, statistics, 0.9))


def test_codes_that_are_where_their_features_are_stay():
    counts = jnp.full(6, 4.0)
    state = {"codebook": CODES, "counts": counts, "sums": CODES * 4}
    new = MOVE(state, {"counts": counts, "sums": CODES * 4})
    np.testing.assert_allclose(new["codebook"], CODES, atol=1e-5)


def test_a_batch_without_tokens_changes_nothing():
    state = {"codebook": CODES, "counts": jnp.ones(6), "sums": CODES}
    nothing = {"counts": jnp.zeros(6), "sums": jnp.zeros_like(CODES)}
    jax.tree.map(np.testing.assert_array_equal, MOVE(state, nothing), state)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_k_means_ends_where_means_are_means(metric):
    points = normal(60, 3, seed=1) + 5 * np.eye(3, dtype=np.float32)[np.arange(60) % 3]

    @jax.jit
    def run(points):
        fitted = kmeans(points, points[:3], 20, metric)
        return fitted, kmeans(points, fitted["codebook"], 1, metric)

    fitted, again = jax.device_get(run(points))
    np.testing.assert_allclose(again["codebook"], fitted["codebook"], atol=1e-5)
    assert fitted["counts"].sum() == 60
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(fitted["codebook"], axis=-1), 1, atol=1e-6)


def test_a_cluster_without_points_keeps_its_mean():
    far = jnp.full((1, 3), 1e3)
    fitted = jax.jit(lambda means: kmeans(CODES, means, 5))(jnp.concatenate([CODES[:2], far]))
    np.testing.assert_array_equal(fitted["codebook"][2], far[0])
    assert fitted["counts"][2] == 0


def test_random_points_are_different_real_points():
    weights = jnp.asarray([1, 0, 1, 1, 0, 1], jnp.float32)
    chosen = np.asarray(jax.jit(lambda w: random_points(CODES, 4, jax.random.key(0), w))(weights))
    real = np.asarray(CODES)[np.asarray(weights) > 0]
    assert sorted(map(tuple, chosen)) == sorted(map(tuple, real))


def test_the_orthogonal_term_at_its_ends():
    run = jax.jit(lambda: (orthogonality(jnp.eye(4)[:3] * 7), orthogonality(jnp.ones((5, 3)))))
    orthonormal, equal = run()
    assert orthonormal == pytest.approx(0, abs=1e-6)
    assert equal == pytest.approx(1 - 1 / 5, abs=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", pytest.param("cosine", marks=pytest.mark.slow)])
def test_k_means_on_eight_devices_is_that_on_one(metric):
    points, weights = normal(203, 3, seed=1), jnp.ones(203).at[::5].set(0)

    @jax.jit
    def fit(points, weights):
        return kmeans(points, random_points(points, 6, jax.random.key(0), weights), 5, metric, weights)

    one = fit(points[:200], weights[:200])
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        many = fit(jax.device_put(points[:200], rows), jax.device_put(weights[:200], rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), one, many)
