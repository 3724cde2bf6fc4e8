import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.kernels import nearest_code
from jaxtok.quantize.codebook import moving_average_update
from jaxtok.quantize.health import code_health
from jaxtok.quantize.vq import VectorQuantizer
from tests.filled import normal

CODEBOOK = np.asarray(normal(7, 3))
Z = normal(2, 5, 3, seed=1)
NEAREST = np.argmin(((np.asarray(Z)[..., None, :] - CODEBOOK) ** 2).sum(-1), -1)


def test_the_nearest_code_wins_and_ties_go_to_the_lowest_index():
    find = jax.jit(nearest_code)
    np.testing.assert_array_equal(find(Z.reshape(-1, 3), CODEBOOK), NEAREST.reshape(-1))
    twice = jnp.concatenate([CODEBOOK, CODEBOOK])
    np.testing.assert_array_equal(find(Z.reshape(-1, 3), twice), NEAREST.reshape(-1))
    between = find(jnp.zeros((1, 3)), jnp.asarray([[9.0, 0, 0], [0, 1, 0], [0, 0, -1], [-1, 0, 0]]))
    assert between.tolist() == [1]


def test_every_code_is_its_own_nearest():
    np.testing.assert_array_equal(jax.jit(nearest_code)(CODEBOOK, CODEBOOK), np.arange(7))


def test_gradients_go_where_the_paper_sends_them():
    quantizer = VectorQuantizer(codes=7, width=3, commitment=0.25)
    upstream = normal(2, 5, 3, seed=2)

    @jax.jit
    def gradients(codebook, z):
        run = lambda codebook, z: quantizer.apply({"params": {"codebook": codebook}}, z)
        grad = lambda f: jax.grad(f, argnums=(0, 1))(codebook, z)
        return (
            grad(lambda c, z: run(c, z).losses["commitment"]),
            grad(lambda c, z: run(c, z).losses["codebook"]),
            grad(lambda c, z: jnp.vdot(run(c, z).values, upstream)),
        )

    commitment, codebook, values = gradients(CODEBOOK, Z)
    difference = np.asarray(Z) - CODEBOOK[NEAREST]
    np.testing.assert_array_equal(commitment[0], 0)
    np.testing.assert_allclose(commitment[1], 2 * 0.25 * difference / Z.size, atol=1e-6)
    by_code = np.zeros_like(CODEBOOK)
    np.add.at(by_code, NEAREST, -2 * difference / Z.size)
    np.testing.assert_allclose(codebook[0], by_code, atol=1e-6)
    np.testing.assert_array_equal(codebook[1], 0)
    np.testing.assert_array_equal(values[0], 0)
    np.testing.assert_array_equal(values[1], upstream)


def test_a_moving_average_by_hand():
    state = {"codebook": np.zeros((2, 1)), "counts": np.array([2.0, 0.0]), "sums": np.array([[4.0], [0.0]])}
    batch = {"counts": np.array([1.0, 3.0]), "sums": np.array([[5.0], [-6.0]])}
    new = jax.jit(lambda state, batch: moving_average_update(state, batch, 0.75, 0.5))(state, batch)
    # counts: 1.5 + 0.25, 0.75; sums: 3 + 1.25, -1.5; N = 2.5; smoothing factor 2.5 / 3.5.
    np.testing.assert_allclose(new["counts"], [1.75, 0.75])
    np.testing.assert_allclose(new["sums"], [[4.25], [-1.5]])
    np.testing.assert_allclose(new["codebook"], [[4.25 / (2.25 / 1.4)], [-1.5 / (1.25 / 1.4)]], rtol=1e-6)


def test_repeated_updates_move_codes_to_the_means_of_their_features():
    quantizer = VectorQuantizer(codes=7, width=3, learning="ema", decay=0.5)

    @jax.jit
    def train(state):
        def step(state, _):
            statistics = quantizer.apply({"quantizer": state}, Z).statistics
            return quantizer.update(state, statistics, jax.random.key(0)), None

        return jax.lax.scan(step, state, length=60)[0]

    state = {"codebook": jnp.asarray(CODEBOOK), "counts": jnp.ones(7), "sums": jnp.asarray(CODEBOOK)}
    final = train(state)
    z = np.asarray(Z).reshape(-1, 3)
    nearest = np.argmin(((z[:, None] - np.asarray(final["codebook"])) ** 2).sum(-1), -1)
    for code in np.unique(nearest):
        np.testing.assert_allclose(final["codebook"][code], z[nearest == code].mean(0), atol=1e-3)
    assert np.isfinite(final["codebook"]).all()  # the unused ones too


def test_state_of_a_moving_average_starts_consistent_and_unshared():
    quantizer = VectorQuantizer(codes=7, width=3, learning="ema")
    # Not compiled: a compiled function never returns one buffer twice.
    state = quantizer.init(jax.random.key(0), Z)["quantizer"]
    np.testing.assert_array_equal(state["codebook"], state["sums"] / state["counts"][:, None])
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(
        state
    )  # refuses a buffer given twice


def test_health_of_a_codebook():
    health = jax.jit(code_health)(jnp.asarray([3.0, 3.0, 0.0, 0.0]))
    assert health["usage"] == 0.5 and health["perplexity"] == pytest.approx(2, abs=1e-5)
    assert health["dead_codes"] == 2 and health["bits_per_token"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_entropy_of_assignments_by_hand(metric):
    quantizer = VectorQuantizer(7, 3, metric=metric, entropy_weight=0.1, entropy_temperature=0.5)
    mask = np.ones(Z.shape[:2], bool)
    mask[1, 2:] = False
    params = {"codebook": jnp.asarray(CODEBOOK)}
    out = jax.jit(lambda p: quantizer.apply({"params": p}, Z, mask=jnp.asarray(mask)))(params)
    z, codes = np.asarray(Z, np.float64)[mask], np.asarray(CODEBOOK, np.float64)
    if metric == "cosine":
        z, codes = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, codes))
    p = np.exp(-np.square(z[:, None] - codes).sum(axis=-1) / 0.5)
    p /= p.sum(axis=-1, keepdims=True)
    mean = p.mean(axis=0)
    expected = -(p * np.log(p)).sum(axis=-1).mean() + (mean * np.log(mean + 1e-5)).sum()
    np.testing.assert_allclose(out.losses["entropy"], 0.1 * expected, atol=1e-6)


def test_the_entropy_of_assignments_needs_one_codebook():
    quantizer = VectorQuantizer(7, 4, slots=2, entropy_weight=0.1)
    with pytest.raises(ValueError, match=r"entropy_weight=0\.1 needs one codebook, but there are 2"):
        quantizer.init(jax.random.key(0), normal(1, 2, 4))
    shared = VectorQuantizer(7, 4, slots=2, share_codebook=True, entropy_weight=0.1)
    out = jax.eval_shape(lambda z: shared.init_with_output(jax.random.key(0), z)[0], normal(1, 2, 4))
    assert out.losses["entropy"].shape == ()
