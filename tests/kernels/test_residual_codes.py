import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxtok import kernels
from jaxtok.kernels.blocks import Blocks
from jaxtok.kernels.residual_codes import gpu, reference, tpu
from tests.filled import normal
from tests.kernels.ahead_of_time import CHIPS, compile_for_tpu, floats, lower_for_gpu, temporary_bytes

KERNELS = {
    "xla": {"implementation": "xla"},
    "pallas_tpu": {"implementation": "pallas_tpu", "interpret": True},
    "pallas_gpu": {"implementation": "pallas_gpu", "interpret": True},
}
# Blocks so small that few codes fill several of them, and the last is not full.
SMALL = {
    "xla": (reference.all_depths, Blocks(8, 8)),
    "pallas_tpu": (tpu.all_depths, Blocks(128, 128)),
    "pallas_gpu": (gpu.all_depths, Blocks(16, 16)),
}
every = pytest.mark.parametrize("kernel", KERNELS)
# One program instead of one per operation: compiling is what takes the time.
nearest_code = jax.jit(kernels.nearest_code)
residual_codes = jax.jit(kernels.residual_codes, static_argnames=("implementation", "interpret"))


def draw(tokens, depths, codes, width):
    return normal(tokens, width), 0.5 * normal(depths, codes, width, seed=1)


def repeated(z, codebooks):
    """One look-up and one subtraction per depth."""
    z, codes = np.asarray(z), []
    for codebook in np.asarray(codebooks):
        codes.append(np.asarray(nearest_code(z, codebook)))
        z = z - codebook[codes[-1]]
    return np.stack(codes, axis=-1), z


@pytest.mark.parametrize("shape", [(7, 3, 5, 4), (600, 2, 1030, 8), (513, 4, 16, 600)])
def test_the_reference_is_repeated_look_up_to_the_bit(shape):
    z, codebooks = draw(*shape)
    for found, expected in zip(residual_codes(z, codebooks), repeated(z, codebooks)):
        np.testing.assert_array_equal(found, expected)


@every
@pytest.mark.parametrize("shape", [(7, 3, 1, 4), (130, 3, 300, 5), (20, 2, 16, 600)])
def test_kernels_equal_repeated_look_up(kernel, shape):
    z, codebooks = draw(*shape)
    codes, residual = residual_codes(z, codebooks, **KERNELS[kernel])
    expected = repeated(z, codebooks)
    np.testing.assert_array_equal(codes, expected[0])
    # What is subtracted is a code, not nearly one.
    np.testing.assert_array_equal(residual, expected[1])
    assert codes.dtype == jnp.int32 and residual.dtype == jnp.float32


@every
def test_small_blocks_and_ties(kernel):
    """Whole numbers: many ties and no rounding, so that codes are exact."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.integers(-4, 5, (37, 3)), jnp.float32)
    codebooks = jnp.asarray(rng.integers(-2, 3, (4, 301, 3)), jnp.float32)
    function, blocks = SMALL[kernel]
    run = jax.jit(lambda z, e: function(z, e, jnp.square(e).sum(-1), blocks=blocks, interpret=True))
    codes, residual = run(z, codebooks)
    left = np.asarray(z)
    for depth, codebook in enumerate(np.asarray(codebooks)):
        best = np.square(left[:, None] - codebook).sum(-1).argmin(1)  # the first of equals
        np.testing.assert_array_equal(codes[:, depth], best)
        left = left - codebook[best]
    np.testing.assert_array_equal(residual, left)


@every
def test_bfloat16_codes_are_those_of_the_same_values(kernel):
    z, codebooks = draw(24, 3, 40, 6)
    z = z.astype(jnp.bfloat16)
    found = residual_codes(z, codebooks, **KERNELS[kernel])
    for a, b in zip(found, residual_codes(z.astype(jnp.float32), codebooks, **KERNELS[kernel])):
        np.testing.assert_array_equal(a, b)


@every
def test_no_tokens_and_no_gradient(kernel):
    z, codebooks = draw(6, 2, 5, 4)
    loss = lambda z, e: residual_codes(z, e, **KERNELS[kernel])[1].sum()
    run = jax.jit(lambda z, e: (residual_codes(z[:0], e, **KERNELS[kernel]), jax.grad(loss, (0, 1))(z, e)))
    (codes, residual), gradients = run(z, codebooks)
    assert codes.shape == (0, 2) and residual.shape == (0, 4)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="none of them 0"):
        residual_codes(jnp.ones((4, 3)), jnp.ones((2, 0, 3)))
    with pytest.raises(ValueError, match="traced for cpu"):
        residual_codes(jnp.ones((4, 3)), jnp.ones((2, 5, 3)), implementation="pallas_gpu")


@every
@pytest.mark.parametrize("tokens", [37, 3])
def test_sharded_equals_unsharded(kernel, tokens):
    z, codebooks = draw(tokens, 3, 20, 5)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda z, e: residual_codes(z, e, **KERNELS[kernel]))(z, codebooks)
    for a, b in zip(found, repeated(z, codebooks)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("chip", CHIPS)
def test_tpu_kernel_compiles_and_never_holds_a_score_per_token_and_code(chip):
    width, codes = {"v5e": (8, 65_536), "v5p": (512, 1024), "v6e": (128, 1000)}[chip]
    compiled = compile_for_tpu(
        kernels.residual_codes, floats(65_536, width), floats(8, codes, width), topology=chip
    )
    assert "tpu_custom_call" in compiled.as_text()
    stored = 4 * width * (65_536 + 8 * codes)
    assert temporary_bytes(compiled) < 2 * stored + 32 * 2**20  # all scores would be up to 128 GiB


def test_tpu_kernel_on_a_mesh():
    compiled = compile_for_tpu(
        kernels.residual_codes,
        floats(65_536, 64),
        floats(8, 1024, 64),
        topology="v6e:4x4",
        axes={"data": 8, "tensor": 2},
        specs=[P("data"), P()],
    )
    assert "tpu_custom_call" in compiled.as_text() and temporary_bytes(compiled) < 32 * 2**20


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_gpu_kernel_lowers(platform):
    text = lower_for_gpu(
        lambda z, e: kernels.residual_codes(z, e, implementation="pallas_gpu"),
        floats(65_536, 200),
        floats(8, 1000, 200),
        platform=platform,
    )
    assert "triton" in text
