import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.adaptive import cluster_tokens, elbow, seed_centres
from tests.filled import normal
from tests.quantize.golden import close

KEY = jax.random.key(0)
cluster = jax.jit(cluster_tokens, static_argnames=("most", "least", "shift"))


def directions(inputs, kinds, tokens=40, noise=0.02, seed=0):
    """Tokens around a few orthogonal directions, of different lengths, and the direction of each."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(np.arange(tokens) % kinds) for _ in range(inputs)])
    x = np.eye(8)[labels] + noise * rng.standard_normal((inputs, tokens, 8))
    return jnp.asarray(x * rng.uniform(0.5, 3, (inputs, tokens, 1)), jnp.float32), labels


def same_partition(a, b):
    return np.array_equal(a[:, None] == a, b[:, None] == b)


@pytest.mark.slow
def test_directions_are_found_whatever_the_length_of_tokens():
    z, labels = directions(3, kinds=4)
    clusters = cluster(z, KEY, most=4)
    for ours, theirs in zip(np.asarray(clusters.assignment), labels, strict=True):
        assert same_partition(ours, theirs)
    np.testing.assert_array_equal(clusters.counts, 10)
    scaled = cluster(z * jnp.linspace(0.1, 9, 40)[:, None], KEY, most=4)
    np.testing.assert_array_equal(scaled.assignment, clusters.assignment)
    unit = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    for b in range(3):
        means = [unit[b][clusters.assignment[b] == k].mean(0) for k in range(4)]
        close(clusters.centres[b], np.stack(means))


def test_the_number_of_clusters_follows_the_input():
    parts = [directions(1, kinds, seed=kinds)[0] for kinds in (3, 4, 6)]
    clusters = cluster(jnp.concatenate(parts), KEY, most=8, least=2)
    np.testing.assert_array_equal(clusters.mask.sum(-1), [3, 4, 6])
    assert not np.any(clusters.centres[~clusters.mask]) and clusters.centres.shape == (3, 8, 8)
    released = cluster(jnp.concatenate(parts), KEY, most=8, least=2, shift=4)
    np.testing.assert_array_equal(released.mask.sum(-1), [4, 5, 7])  # index + 4


@pytest.mark.slow
def test_distortion_falls_with_the_number_of_clusters_to_zero():
    z = normal(1, 6, 5)[:, jnp.arange(24) % 6]
    distortions = [float(cluster(z, KEY, most=k).distortion[0]) for k in (1, 3, 6)]
    assert distortions == sorted(distortions, reverse=True)
    assert distortions[0] > 1 and abs(distortions[-1]) < 1e-5
    rebuilt = cluster(z, KEY, most=6).rebuilt()
    close(rebuilt, z / np.linalg.norm(z, axis=-1, keepdims=True))
    few = cluster(z, KEY, most=9)  # more clusters than distinct tokens
    assert few.mask.sum() == 6 and np.isfinite(few.centres).all()


def test_elbow_by_hand():
    curve = jnp.array([10.0, 6.0, 2.0, 1.5, 1.2, 1.0])  # bends most at the third
    cases = [{"least": 12}, {"least": 12, "shift": 4}, {"least": 3, "shift": 4}, {"least": 2, "shift": 40}]
    bends = jax.jit(lambda curve: [elbow(curve, **case) for case in cases])(curve)
    assert bends == [14, 12, 5, 7]


def test_seeds_are_drawn_by_squared_distance():
    x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [50.0, 50.0]])
    real = jnp.array([True, True, True, False])
    uniforms = jax.random.uniform(KEY, (4000, 2))
    seeds = np.asarray(jax.jit(jax.vmap(lambda u: seed_centres(x, real, u)))(uniforms))
    from_first = seeds[:, 1][(seeds[:, 0] == 0).all(-1)]
    share = (from_first == [0, 2]).all(-1).mean()
    np.testing.assert_allclose(share, 4 / 5, atol=0.04)
    assert seeds.max() < 50
    np.testing.assert_allclose((seeds[:, 0] == np.array([1.0, 0.0])).all(-1).mean(), 1 / 3, atol=0.03)


def test_masked_tokens_have_no_effect():
    z, _ = directions(2, kinds=3)
    mask = jnp.arange(40) < jnp.array([40, 25])[:, None]
    run = lambda z: cluster(z, KEY, most=5, least=2, mask=mask)
    a, b = run(z), run(jnp.where(mask[..., None], z, 100.0))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_array_equal(a.counts.sum(-1), [40, 25])
    assert not np.any(a.assignment[~mask])


def test_inputs_do_not_depend_on_their_company():
    z, _ = directions(3, kinds=4, noise=0.5)
    keys = jax.random.split(KEY, 3)
    together = cluster(z, keys, most=6, least=2)
    alone = cluster(z[1:2], keys[1:2], most=6, least=2)
    jax.tree.map(lambda a, b: close(a[1:2], np.asarray(b)), together, alone)


@pytest.mark.parametrize("least", [0, 4, 9])
def test_impossible_numbers_are_refused(least):
    with pytest.raises(ValueError, match=f"least={least}"):
        cluster(normal(1, 8, 2), KEY, most=5, least=least)
