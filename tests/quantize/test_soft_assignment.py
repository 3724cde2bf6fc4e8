import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.kernels.blocks import Blocks
from jaxtok.kernels.code_entropy import reference
from jaxtok.kernels.code_entropy.api import soft_assignment
from jaxtok.quantize.soft_assignment import propagate_indices
from tests.compiled import optimised
from tests.filled import normal
from tests.quantize.golden import close

M, K, D = 13, 11, 5
Z, E, G = normal(M, D), normal(K, D, seed=1), normal(M, D, seed=2)
WEIGHTS = jnp.asarray(np.arange(M) % 3 != 0, jnp.float32)


@pytest.fixture(params=[(4, 3), (64, 64)], ids=["many tiles", "one tile"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(reference, "for_device", lambda table: Blocks(*request.param))


def materialised(z, codebook):
    p = jax.nn.softmax(jnp.dot(z, codebook.T, precision="highest"))
    hard = jax.nn.one_hot(jnp.argmax(p, -1), codebook.shape[0])
    return jnp.dot(hard + p - jax.lax.stop_gradient(p), codebook, precision="highest")


def test_indices_propagate_like_the_formula_with_all_scores(tiles):
    codes = jnp.argmax(Z @ E.T, -1).astype(jnp.int32)
    ours = lambda z, e: jnp.vdot(propagate_indices(z, e, codes), G)
    theirs = lambda z, e: jnp.vdot(materialised(z, e), G)
    run = lambda z, e: (propagate_indices(z, e, codes), *(jax.grad(f, (0, 1))(z, e) for f in (ours, theirs)))
    values, a, b = jax.jit(run)(Z, E)
    np.testing.assert_array_equal(values, E[codes])
    jax.tree.map(close, a, b)


def test_the_gradient_reaches_every_code():
    codes = jnp.zeros(M, jnp.int32)
    gradient = jax.jit(jax.grad(lambda e: jnp.sum(jnp.sin(propagate_indices(Z, e, codes)))))(E)
    assert (np.abs(gradient).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_assignments_are_those_of_a_softmax(tiles, scale):
    def plain(z, e):
        log = jax.nn.log_softmax(scale * jnp.dot(z, e.T, precision="highest"))
        p = jnp.exp(log)
        return -jnp.sum(p * log, -1), jnp.sum(WEIGHTS[:, None] * p, 0)

    ours = lambda z, e: soft_assignment(z, e, scale, WEIGHTS)
    jax.tree.map(close, *jax.jit(lambda z, e: (ours(z, e), plain(z, e)))(Z, E))

    def scalar(function):
        def loss(z, e):
            entropy, mass = function(z, e)
            return jnp.vdot(entropy, normal(M, seed=3)) + jnp.vdot(jnp.sin(mass), normal(K, seed=4))

        return optimised(jax.grad(loss, (0, 1)))  # scores are computed twice and have to agree

    for a, b in zip(scalar(ours)(Z, E), scalar(plain)(Z, E), strict=True):
        close(a, b, atol=2e-5)


def test_no_score_per_token_and_code_is_kept():
    def loss(z, e):
        codes = jnp.zeros(z.shape[0], jnp.int32)
        entropy, mass = soft_assignment(z, e, 1.0, jnp.ones(z.shape[0]))
        return jnp.sum(propagate_indices(z, e, codes)) + jnp.sum(entropy) + jnp.sum(mass**2)

    tokens, codes = 8192, 16384
    shapes = [jax.ShapeDtypeStruct((n, 4), jnp.float32) for n in (tokens, codes)]
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < tokens * codes * 4 / 8


def test_devices_do_not_matter():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def loss(z, e):
        codes = jnp.argmax(z @ e.T, -1).astype(jnp.int32)
        entropy, mass = soft_assignment(z, e, 3.0, WEIGHTS)
        return (
            jnp.vdot(propagate_indices(z, e, codes), G)
            + jnp.sum(jnp.sin(entropy))
            + jnp.sum(jnp.square(mass))
        )

    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    expected = run(Z, E)
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(loss, (0, 1)))(
            jax.device_put(Z, NamedSharding(mesh, PartitionSpec())), E
        )
    jax.tree.map(close, got, expected)
