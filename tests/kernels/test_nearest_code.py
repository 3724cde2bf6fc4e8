import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from jaxtok import kernels
from jaxtok.kernels.blocks import Blocks
from jaxtok.kernels.nearest_code import gpu, reference, tpu
from tests.filled import normal
from tests.kernels.ahead_of_time import CHIPS, compile_for_tpu, floats, lower_for_gpu, temporary_bytes

KERNELS = {
    "xla": {"implementation": "xla"},
    "pallas_tpu": {"implementation": "pallas_tpu", "interpret": True},
    "pallas_gpu": {"implementation": "pallas_gpu", "interpret": True},
}
# Blocks so small that few codes fill several of them, and the last is not full.
SMALL = {
    "xla": (reference.smallest_score, Blocks(8, 8)),
    "pallas_tpu": (tpu.smallest_score, Blocks(128, 128)),
    "pallas_gpu": (gpu.smallest_score, Blocks(16, 16)),
}
every = pytest.mark.parametrize("kernel", KERNELS)


@functools.partial(jax.jit, static_argnums=0)
def in_small_blocks(kernel, z, codebook):
    """Codes and scores, which lack |z|^2."""
    function, blocks = SMALL[kernel]
    return function(z, -2 * codebook, jnp.square(codebook).sum(1), blocks=blocks, interpret=True)


# One program instead of one per operation: compiling is what takes the time.
OPTIONS = ("metric", "return_distance", "implementation", "shard_codes", "interpret")
nearest_code = jax.jit(kernels.nearest_code, static_argnames=OPTIONS)


def exact(z, codebook, metric="euclidean"):
    """Codes and distances in float64, and by how much the best code is better than the second."""
    z, codebook = np.asarray(z, np.float64), np.asarray(codebook, np.float64)
    if metric == "cosine":
        z, codebook = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6) for x in (z, codebook))
    if metric == "euclidean":
        score = np.square(z[:, None] - codebook[None]).sum(-1)
    else:
        score = -z @ codebook.T
    two = np.sort(score, axis=1)[:, :2]
    margin = two[:, 1] - two[:, 0] if len(codebook) > 1 else np.full(len(z), np.inf)
    best = score.argmin(1)
    return best, score[np.arange(len(z)), best] * (1 if metric == "euclidean" else -1), margin


def draw(seed, tokens, codes, width, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = (tokens, width), (codes, width)
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


# What a metric changes lies before and behind the kernels, so they take the others at one shape.
def _metrics():
    for shape in ((5, 1, 3), (130, 1100, 8), (20, 300, 1500)):
        for metric in ("euclidean", "cosine", "dot"):
            for kernel in KERNELS:
                few = metric == "euclidean" or shape[0] == 130 or kernel == "xla"
                name = f"{kernel}-{metric}-{'x'.join(map(str, shape))}"
                yield pytest.param(
                    kernel, metric, shape, id=name, marks=() if few else pytest.mark.exhaustive
                )


@pytest.mark.parametrize("kernel, metric, shape", list(_metrics()))
def test_codes_and_distances_are_those_of_float64(kernel, metric, shape):
    z, codebook = draw(0, *shape)
    codes, distances = nearest_code(z, codebook, metric=metric, return_distance=True, **KERNELS[kernel])
    expected, distance, margin = exact(z, codebook, metric)
    # Scores are sums of terms as large as the norms, which float32 holds to 6e-8.
    scale = 1 if metric == "cosine" else np.square(z).sum(1) + np.square(codebook).sum(1).max()
    clear = margin > 1e-5 * scale
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(codes[clear], expected[clear])
    np.testing.assert_allclose(distances[clear], distance[clear], rtol=1e-5, atol=1e-5)
    assert codes.dtype == jnp.int32 and distances.dtype == jnp.float32


@every
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1e-3, 1.0, 1e4]),
    shift=st.sampled_from([0.0, 3.0]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
)
def test_any_values(kernel, seed, spread, shift, dtype):
    z, codebook = (x * spread + shift for x in draw(seed, 20, 37, 6))
    z = z.astype(dtype)
    codes = nearest_code(z, codebook, **KERNELS[kernel])
    expected, _, margin = exact(z.astype(jnp.float32), codebook)
    clear = margin > 1e-5 * (np.square(z, dtype=np.float32).sum(1) + np.square(codebook).sum(1).max())
    np.testing.assert_array_equal(codes[clear], expected[clear])
    np.testing.assert_array_equal(codes, nearest_code(z.astype(jnp.float32), codebook, **KERNELS[kernel]))


@every
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), codes=st.sampled_from([1, 8, 37]))
def test_the_lowest_of_equals_wins(kernel, seed, codes):
    """Small whole numbers: many ties, and no rounding, so that codes are exact; blocks are small."""
    rng = np.random.default_rng(seed)
    z = rng.integers(-2, 3, (11, 3)).astype(np.float32)
    codebook = rng.integers(-2, 3, (codes, 3)).astype(np.float32)
    found, score = in_small_blocks(kernel, z, codebook)
    expected, distance, _ = exact(z, codebook)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.asarray(score) + np.square(z).sum(1), distance)


@every
def test_small_blocks_give_the_same(kernel):
    z, codebook = draw(1, 300, 301, 5)
    found, _ = in_small_blocks(kernel, z, codebook)
    np.testing.assert_array_equal(found, nearest_code(z, codebook))


@every
def test_a_code_that_is_there_twice_is_found_at_its_first_place(kernel):
    z, half = draw(2, 40, 600, 4)
    codes = nearest_code(z, jnp.concatenate([half, half]), **KERNELS[kernel])
    np.testing.assert_array_equal(codes, nearest_code(z, half))


@every
def test_negative_zero_is_zero(kernel):
    codebook = jnp.asarray([[1.0, 1.0], [0.0, -0.0], [-0.0, 0.0], [0.0, 0.0]])
    z = jnp.asarray([[0.0, 0.0], [-0.0, -0.0], [-0.0, 0.0]])
    np.testing.assert_array_equal(nearest_code(z, codebook, **KERNELS[kernel]), [1, 1, 1])


@every
def test_what_is_not_finite_still_gives_a_code(kernel):
    """Training that diverges must not read beyond the codebook; nor may padding ever win."""
    codebook = jnp.full((37, 3), 1e30)  # squares overflow
    z = jnp.asarray([[jnp.nan] * 3, [jnp.inf] * 3, [1e30] * 3, [0.0] * 3])
    codes = np.asarray(nearest_code(z, codebook, **KERNELS[kernel]))
    assert (codes >= 0).all() and (codes < 37).all()


@every
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_token_that_is_a_code_has_distance_nought(kernel, metric):
    _, codebook = draw(3, 1, 50, 7)
    codes, distances = nearest_code(
        codebook + 0, codebook, metric=metric, return_distance=True, **KERNELS[kernel]
    )
    np.testing.assert_array_equal(codes, np.arange(50))
    if metric == "euclidean":
        np.testing.assert_array_equal(distances, 0)
    else:
        np.testing.assert_allclose(distances, 1, rtol=1e-6)


@every
def test_several_codebooks_at_once(kernel):
    z, codebooks = (np.asarray(normal(2, 3, size, 4, seed=size)) for size in (9, 21))
    codes, distances = nearest_code(z, codebooks, return_distance=True, **KERNELS[kernel])
    assert codes.shape == distances.shape == (2, 3, 9)
    for place in np.ndindex(2, 3):
        alone = nearest_code(z[place], codebooks[place], return_distance=True)
        np.testing.assert_array_equal(codes[place], alone[0])
        np.testing.assert_allclose(distances[place], alone[1], rtol=1e-5)


@every
def test_no_tokens(kernel):
    codes, distances = nearest_code(
        jnp.ones((0, 3)), jnp.ones((4, 3)), return_distance=True, **KERNELS[kernel]
    )
    assert codes.shape == distances.shape == (0,)
    assert nearest_code(jnp.ones((2, 0, 3)), jnp.ones((2, 4, 3)), **KERNELS[kernel]).shape == (2, 0)


@every
def test_under_vmap_scan_remat_and_without_gradient(kernel):
    z, codebook = draw(4, 12, 10, 4)

    @jax.jit
    def run(by_three, codebook):
        look_up = lambda x: nearest_code(x, codebook, **KERNELS[kernel])
        _, scanned = jax.lax.scan(lambda c, x: (c, jax.checkpoint(look_up)(x)), None, by_three)
        distance = lambda z, e: nearest_code(z, e, return_distance=True, **KERNELS[kernel])[1].sum()
        return jax.vmap(look_up)(by_three), scanned, jax.grad(distance, (0, 1))(by_three[0], codebook)

    *codes, gradients = run(z.reshape(3, 4, 4), codebook)
    expected = nearest_code(z, codebook)
    for found, how in zip(codes, ("vmap", "scan and remat"), strict=True):
        np.testing.assert_array_equal(found.reshape(-1), expected, err_msg=how)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    "z, codebook, options, message",
    [
        ((4, 3), (0, 3), {}, "has no codes"),
        ((4, 3), (5, 3), {"implementation": "pallas_tpu"}, "traced for cpu"),
    ],
)
def test_errors_say_what_to_do(z, codebook, options, message):
    with pytest.raises(ValueError, match=message):
        nearest_code(jnp.ones(z), jnp.ones(codebook), **options)


def test_the_reference_never_holds_a_score_per_token_and_code():
    tokens, codes = 16_384, 65_536
    compiled = nearest_code.lower(floats(tokens, 8), floats(codes, 8)).compile()
    assert temporary_bytes(compiled) < 16 * 2**20  # all scores would be 4 GiB


@pytest.mark.parametrize("chip", CHIPS)
def test_tpu_kernel_compiles_and_never_holds_a_score_per_token_and_code(chip):
    width = {"v5e": 8, "v5p": 64, "v6e": 1500}[chip]  # the last is summed up in slices
    compiled = compile_for_tpu(
        kernels.nearest_code, floats(65_536, width), floats(262_144, width), topology=chip
    )
    assert "tpu_custom_call" in compiled.as_text()
    stored = 4 * width * (65_536 + 262_144)
    assert temporary_bytes(compiled) < 2 * stored + 32 * 2**20  # all scores would be 64 GiB


@pytest.mark.parametrize("topology", ["v5e:4x4", pytest.param("v6e:4x4", marks=pytest.mark.slow)])
def test_tpu_kernel_on_a_mesh_with_the_codebook_split(topology):
    def look_up(z, codebook):
        return nearest_code(z, codebook, return_distance=True, shard_codes=True)

    compiled = compile_for_tpu(
        look_up,
        floats(65_536, 64),
        floats(262_144, 64),
        topology=topology,
        axes={"data": 4, "fsdp": 2, "tensor": 2},
        specs=[P(("data", "fsdp")), P("tensor")],
    )
    assert "tpu_custom_call" in compiled.as_text()
    assert temporary_bytes(compiled) < 256 * 2**20


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_gpu_kernel_lowers(platform):
    text = lower_for_gpu(
        lambda z, e: nearest_code(z, e, implementation="pallas_gpu"),
        floats(65_536, 200),
        floats(262_144, 200),
        platform=platform,
    )
    assert "triton" in text


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_gpus_take_the_xla_implementation(platform):
    text = lower_for_gpu(kernels.nearest_code, floats(512, 8), floats(64, 8), platform=platform)
    assert "triton" not in text
