import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.kernels import code_statistics
from tests.filled import normal
from tests.kernels.ahead_of_time import compile_for_tpu, floats, lower_for_gpu, temporary_bytes


def by_hand(z, codes, size, weights):
    counts, sums = np.zeros(size), np.zeros((size, z.shape[1]))
    np.add.at(counts, codes, weights)
    np.add.at(sums, codes, z * weights[:, None])
    return counts, sums


@functools.partial(jax.jit, static_argnums=2)
def weighted_and_not(z, codes, size, weights):
    return code_statistics(z, codes, size, weights=weights), code_statistics(z, codes, size)


# Tokens, codes, width; every shape compiles.
SHAPES = st.sampled_from([(0, 3, 2), (1, 1, 1), (40, 12, 5), (17, 5, 1)])


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_counts_and_sums(shape, seed):
    tokens, size, width = shape
    rng = np.random.default_rng(seed)
    z, codes = (
        rng.standard_normal((tokens, width)).astype(np.float32),
        rng.integers(0, size, tokens, np.int32),
    )
    weights = (rng.random(tokens) < 0.7).astype(np.float32)
    found, unweighted = weighted_and_not(z, codes, size, weights)
    for a, b in zip(found, by_hand(z, codes, size, weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(unweighted, by_hand(z, codes, size, np.ones(tokens)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert unweighted[0].sum() == tokens


@pytest.mark.parametrize("tokens, size, width", [(700, 30, 5), (40, 600, 130), (20, 7, 600)])
def test_kernels_give_the_same(tokens, size, width):
    z = normal(tokens, width)
    codes = jnp.asarray(np.random.default_rng(1).integers(0, size, tokens, np.int32))
    weights = jnp.asarray(np.random.default_rng(2).random(tokens) < 0.5, jnp.float32)
    options = {"pallas_tpu": {"interpret": True}, "pallas_gpu": {"interpret": True}, "xla": {}}

    @jax.jit
    def run(z, codes, weights):
        return {
            name: code_statistics(z, codes, size, weights=weights, implementation=name, **more)
            for name, more in options.items()
        }

    found = run(z, codes, weights)
    one = found.pop("xla")
    for name, other in found.items():
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)


def test_sharded_equals_unsharded():
    z, codes = normal(21, 4), jnp.asarray(np.random.default_rng(1).integers(0, 6, 21, np.int32))
    run = jax.jit(lambda z, codes: code_statistics(z, codes, 6))
    one = run(z, codes)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        many = run(jax.device_put(z, everywhere), jax.device_put(codes, everywhere))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


@pytest.mark.parametrize(  # TPU compilations
    "chip, width",
    [
        pytest.param("v5e", 64, marks=pytest.mark.slow),
        pytest.param("v5p", 2000, marks=pytest.mark.slow),
        pytest.param("v6e", 2000, marks=pytest.mark.slow),
        pytest.param("v5e", 2000, marks=pytest.mark.exhaustive),
        pytest.param("v5p", 64, marks=pytest.mark.exhaustive),
        pytest.param("v6e", 64, marks=pytest.mark.exhaustive),
    ],
)
def test_the_tpu_kernel_compiles_without_a_one_hot_matrix(chip, width):
    function = lambda z, codes: code_statistics(z, codes, 8192, implementation="pallas_tpu")
    codes = jax.ShapeDtypeStruct((65536,), jnp.int32)
    compiled = compile_for_tpu(function, floats(65536, width), codes, topology=chip)
    assert temporary_bytes(compiled) < 4 * 65536 * (width + 512)  # a copy of z; all scores are 2 GiB
    assert "tpu_custom_call" in compiled.as_text()


def test_a_kernel_that_cannot_run_is_refused():
    with pytest.raises(ValueError, match="runs on cuda and rocm"):
        code_statistics(normal(2, 3), jnp.zeros(2, jnp.int32), 4, implementation="pallas_gpu")


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@pytest.mark.parametrize("implementation", ["pallas_gpu", None])
def test_it_lowers_for_gpus(platform, implementation):
    def run(z, codes):
        return code_statistics(z, codes, 1000, implementation=implementation)

    codes = jax.ShapeDtypeStruct((4096,), jnp.int32)
    text = lower_for_gpu(run, floats(4096, 40), codes, platform=platform)
    assert ("triton" in text) == (implementation is not None)
