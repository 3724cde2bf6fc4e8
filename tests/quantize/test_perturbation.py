import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.kernels.nearest_code.api import unit
from jaxtok.quantize.perturbation import Perturbation, nearest_codes, perturb_codes
from jaxtok.quantize.routing import straight_through
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.weights import read_tensors
from tests.filled import normal
from tests.quantize.golden import alike, close


def tokens(x):
    x = np.moveaxis(np.asarray(x), 1, -1) if np.ndim(x) == 4 else np.asarray(x)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


@pytest.fixture(scope="module")
def recorded(shared):
    tensors, _ = read_tensors(shared("goldens/robusttok.safetensors"))
    return tensors


@pytest.mark.parametrize("kind, metric", [("l2", "cosine"), ("plain", "euclidean")])
def test_recorded_quantizer(recorded, kind, metric):
    io = {k.removeprefix(f"io.{kind}."): v for k, v in recorded.items() if k.startswith(f"io.{kind}.")}
    quantizer = VectorQuantizer(codes=40, width=8, metric=metric)
    params, z = {"codebook": jnp.asarray(io["codebook"])}, tokens(io["z"])

    def loss(params, z):
        out = quantizer.apply({"params": params}, z)
        return sum(out.losses.values()), out

    (by_params, by_z), out = jax.device_get(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, z))
    np.testing.assert_array_equal(out.codes[..., 0], tokens(io["codes"]))
    close(out.values, tokens(io["quantised"]))
    close(out.losses["codebook"], io["vq_loss"])
    close(out.losses["commitment"], io["commit_loss"])
    alike(by_z, tokens(io["grad_z"]))
    alike(by_params["codebook"], io["grad_codebook"])


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind, metric", [("l2", "cosine"), ("plain", "euclidean")])
def test_recorded_perturbation(recorded, kind, metric, index):
    start = f"io.{kind}.perturb{index}."
    io = {k.removeprefix(start): v for k, v in recorded.items() if k.startswith(start)}
    alpha, beta, delta = io["alpha_beta_delta"]
    codebook, z = jnp.asarray(recorded[f"io.{kind}.codebook"]), tokens(recorded[f"io.{kind}.z"])
    codes = tokens(recorded[f"io.{kind}.codes"]).astype(np.int32)
    ranks, drawn = tokens(io["randint"]).astype(np.int32), tokens(io["uniform"]) <= alpha
    first = (np.arange(6) < int(6 * float(beta)))[:, None]
    normalise = unit if metric == "cosine" else lambda x: x

    @jax.jit
    def run(z, codebook, codes, ranks, drawn):
        neighbours = nearest_codes(z.reshape(-1, 8), codebook, int(delta), metric).reshape(*codes.shape, -1)
        chosen = perturb_codes(codes, neighbours, ranks, drawn)
        perturbed = perturb_codes(codes, neighbours, ranks, drawn & first)
        output, pull = jax.vjp(lambda z: straight_through(normalise(z), normalise(codebook)[perturbed]), z)
        cotangent = jnp.broadcast_to(jnp.arange(8.0), z.shape)  # as recorded
        return neighbours, chosen, output, pull(cotangent)[0]

    neighbours, chosen, output, gradient = run(z, codebook, codes, ranks, drawn)
    np.testing.assert_array_equal(neighbours[..., 0], codes)
    np.testing.assert_array_equal(chosen, tokens(io["chosen"]))
    close(output, tokens(io["output"]))
    alike(gradient, tokens(io["grad_z"]))


Z, E = normal(4, 64, 3), normal(20, 3, seed=1)
CODES = jnp.asarray(
    np.argmin(np.sum((np.asarray(Z)[:, :, None] - np.asarray(E)) ** 2, -1), -1).astype(np.int32)
)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_are_sorted_by_distance(metric):
    z, e = np.asarray(Z[0]), np.asarray(E)
    if metric == "cosine":
        z, e = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, e))
    expected = np.argsort(np.sum((z[:, None] - e) ** 2, -1), axis=-1)[:, :7]
    np.testing.assert_array_equal(nearest_codes(Z[0], E, 7, metric), expected)


def test_shares_are_those_asked_for():
    many, codes = jnp.broadcast_to(Z[:1], (400, 64, 3)), jnp.broadcast_to(CODES[:1], (400, 64))
    run = lambda **settings: np.asarray(jax.jit(Perturbation(**settings))(many, codes, E, jax.random.key(0)))
    wrong = run(alpha=0.5, beta=0.25, delta=5) != codes
    touched = wrong.any(-1)
    np.testing.assert_allclose(touched.mean(), 0.25, atol=0.06)
    np.testing.assert_allclose(wrong[touched].mean(), 0.5 * 4 / 5, atol=0.04)  # one of five is the right one
    assert not (run(alpha=1.0, beta=1.0, delta=1) != codes).any()
    assert not (run(alpha=1.0, beta=0.0, delta=5) != codes).any()


def test_annealing():
    schedule = Perturbation(start=0.2, end=0.6, floor=0.5)
    np.testing.assert_allclose(
        schedule.at(jnp.array([0.0, 0.2, 0.4, 0.6, 1.0])), [1, 1, 0.75, 0.5, 0.5], atol=1e-6
    )
    keys = jax.random.key(0)
    run = jax.jit(lambda factor: Perturbation(beta=1.0, delta=10)(Z, CODES, E, keys, factor))
    full, none = run(1.0), run(0.0)
    assert np.any(full != CODES) and not np.any(none != CODES)


def test_too_many_neighbours():
    with pytest.raises(ValueError, match="count=21"):
        nearest_codes(Z[0], E, 21)
