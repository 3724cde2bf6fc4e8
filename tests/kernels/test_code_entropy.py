import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.kernels import code_entropy
from tests.filled import normal
from tests.kernels.ahead_of_time import compile_for_tpu, floats, lower_for_gpu, temporary_bytes

Z, CODEBOOK = normal(37, 5), normal(11, 5, seed=1)
WEIGHTS = jnp.asarray(np.random.default_rng(2).random(37) < 0.7, jnp.float32)


def by_hand(z, codebook, scale, affinity, weights):
    scores = z @ codebook.T if affinity == "dot" else -jnp.sum(jnp.square(z[:, None] - codebook), axis=-1)
    log_p = jax.nn.log_softmax(scale * scores, axis=-1)
    p, weights = jnp.exp(log_p), weights / weights.sum()
    mean = weights @ p
    return weights @ -jnp.sum(p * log_p, axis=-1), -jnp.sum(mean * jnp.log(mean))


@pytest.mark.parametrize("affinity", ["dot", "euclidean"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_it_equals_the_formula_with_its_gradients(affinity, scale):
    cotangent = jnp.asarray([1.0, -0.7])
    ours = lambda z, e: (
        cotangent @ jnp.stack(code_entropy(z, e, scale=scale, affinity=affinity, weights=WEIGHTS))
    )
    theirs = lambda z, e: cotangent @ jnp.stack(by_hand(z, e, scale, affinity, WEIGHTS))
    (a, da), (b, db) = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(Z, CODEBOOK) for f in (ours, theirs))
    np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), da, db)


def test_its_extremes():
    codebook = jnp.eye(8) * 30
    sure, spread = code_entropy(codebook, codebook)
    assert abs(sure) < 1e-6 and spread == pytest.approx(np.log(8), abs=1e-5)
    unsure, _ = code_entropy(jnp.zeros((3, 8)), codebook)
    assert unsure == pytest.approx(np.log(8), abs=1e-5)


def test_sharded_equals_unsharded():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    value = jax.jit(jax.value_and_grad(lambda z: sum(code_entropy(z, CODEBOOK, scale=2.0))))
    one = value(Z)
    with jax.set_mesh(mesh):
        many = value(jax.device_put(Z, NamedSharding(mesh, PartitionSpec())))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


def test_bad_input():
    with pytest.raises(ValueError, match="affinity"):
        code_entropy(Z, CODEBOOK, affinity="cosine")
    with pytest.raises(ValueError, match="no implementation"):
        code_entropy(Z, CODEBOOK, implementation="pallas_tpu")


@pytest.mark.slow  # TPU compilations
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_no_score_per_token_and_code_exists_on_a_tpu(chip):
    step = jax.grad(lambda z, e: sum(code_entropy(z, e)), argnums=(0, 1))
    compiled = compile_for_tpu(step, floats(65536, 16), floats(65536, 16), topology=chip)
    assert temporary_bytes(compiled) < 65536 * 65536 * 4 / 16


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_it_lowers_for_gpus(platform):
    assert "stablehlo" in lower_for_gpu(
        lambda z, e: code_entropy(z, e), floats(64, 8), floats(32, 8), platform=platform
    )
