import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.kernels import code_entropy
from jaxtok.kernels.blocks import Blocks
from jaxtok.kernels.code_entropy import gpu, reference, tpu
from tests.filled import normal
from tests.kernels.ahead_of_time import compile_for_tpu, floats, lower_for_gpu, temporary_bytes

Z, CODEBOOK = normal(37, 5), normal(11, 5, seed=1)
WEIGHTS = jnp.asarray(np.random.default_rng(2).random(37) < 0.7, jnp.float32)


KERNELS = {
    "xla": {"implementation": "xla"},
    "pallas_tpu": {"implementation": "pallas_tpu", "interpret": True},
    "pallas_gpu": {"implementation": "pallas_gpu", "interpret": True},
}
PASSES = {"pallas_tpu": (tpu, Blocks(128, 128)), "pallas_gpu": (gpu, Blocks(32, 16))}
COTANGENT = jnp.asarray([1.0, -0.7])
every = pytest.mark.parametrize("kernel", KERNELS)


def by_hand(z, codebook, scale, affinity, weights):
    scores = z @ codebook.T if affinity == "dot" else -jnp.sum(jnp.square(z[:, None] - codebook), axis=-1)
    log_p = jax.nn.log_softmax(scale * scores, axis=-1)
    p, weights = jnp.exp(log_p), weights / weights.sum()
    mean = weights @ p
    return weights @ -jnp.sum(p * log_p, axis=-1), -jnp.sum(mean * jnp.log(mean))


def value_and_gradients(affinity, **options):
    """Of the entropies of z under a codebook and a scale."""

    def run(z, e, scale):
        return COTANGENT @ jnp.stack(
            code_entropy(z, e, scale=scale, affinity=affinity, weights=WEIGHTS, **options)
        )

    return jax.value_and_grad(run, (0, 1, 2))


@functools.partial(jax.jit, static_argnums=0)
def _by_hand(affinity, z, e, scale):
    value = lambda z, e, scale: COTANGENT @ jnp.stack(by_hand(z, e, scale, affinity, WEIGHTS))
    return jax.value_and_grad(value, (0, 1, 2))(z, e, scale)


def exact(affinity, *arguments):
    """The same by the formula, in float64."""
    with jax.enable_x64(True):
        values = _by_hand(affinity, *(np.asarray(x, np.float64) for x in arguments))
        assert values[0].dtype == jnp.float64
        return jax.device_get(values)


def assert_close(found, expected, tolerance, name):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("affinity", ["dot", "euclidean"])
def test_it_equals_the_formula_with_its_gradients(affinity):
    @jax.jit
    def run(z, e, scale):
        return {name: value_and_gradients(affinity, **it)(z, e, scale) for name, it in KERNELS.items()}

    for scale in (0.5, 3.0):
        expected = exact(affinity, Z, CODEBOOK, scale)
        for name, found in run(Z, CODEBOOK, scale).items():
            assert_close(found, expected, 1e-5, f"{name}, scale {scale}")


@pytest.mark.parametrize(
    "tokens, codes, width",
    [(300, 270, 5), pytest.param(130, 256, 24, marks=pytest.mark.slow), (128, 1, 3)],
)
def test_kernels_of_several_tiles_equal_the_reference(tokens, codes, width):
    """All that the passes compute, with scores as large as a low temperature makes them."""
    z, codebook = 5 * normal(tokens, width), normal(codes, width, seed=1)
    weights = jnp.asarray(np.arange(tokens) % 3 > 0, jnp.float32)
    by_entropy, by_mass = normal(tokens, seed=2), 10 + normal(codes, seed=3)

    def both(z, codebook, place, **options):
        (entropy, *rest), mass = place.assign(z, weights, codebook, **options)
        saved = entropy, *rest, by_entropy
        return entropy, mass, place.assign_gradient(z, weights, *saved, codebook, by_mass, **options)

    @jax.jit
    def run(z, codebook):
        kernels = {
            name: both(z, codebook, place, blocks=blocks, interpret=True)
            for name, (place, blocks) in PASSES.items()
        }
        return both(z, codebook, reference), kernels

    expected, kernels = run(z, codebook)
    for name, found in kernels.items():
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            # Of sums of hundreds of terms up to 200: the largest gradient is 22.
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kernel", PASSES)
def test_features_too_wide_for_the_chip_go_to_xla(kernel):
    def value(name):
        return jax.value_and_grad(lambda z: sum(code_entropy(z, z[:7], **KERNELS[name])))

    z = normal(9, 1030)
    assert "pallas_call" not in str(jax.make_jaxpr(value(kernel))(z))
    jax.tree.map(np.testing.assert_array_equal, *jax.jit(lambda z: (value("xla")(z), value(kernel)(z)))(z))


@every
def test_no_tokens(kernel):
    each, spread = code_entropy(Z[:0], CODEBOOK, **KERNELS[kernel])
    assert each == spread == 0


def test_its_extremes():
    codebook = jnp.eye(8) * 30
    run = jax.jit(lambda z, e: (code_entropy(z, e), code_entropy(jnp.zeros((3, 8)), e)))
    (sure, spread), (unsure, _) = run(codebook, codebook)
    assert abs(sure) < 1e-6 and spread == pytest.approx(np.log(8), abs=1e-5)
    assert unsure == pytest.approx(np.log(8), abs=1e-5)


@every
def test_sharded_equals_unsharded(kernel):
    """What it is unsharded, the formula says."""
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    value = jax.jit(value_and_gradients("euclidean", **KERNELS[kernel]))
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        many = value(jax.device_put(Z, everywhere), jax.device_put(CODEBOOK, everywhere), 2.0)
    assert_close(many, exact("euclidean", Z, CODEBOOK, 2.0), 1e-5, kernel)


def test_bad_input():
    with pytest.raises(ValueError, match="affinity"):
        code_entropy(Z, CODEBOOK, affinity="cosine")
    with pytest.raises(ValueError, match="runs on tpu, but this program is traced for cpu"):
        code_entropy(Z, CODEBOOK, implementation="pallas_tpu")


def entropies_and_gradient(z, e):
    return jax.value_and_grad(lambda z, e: sum(code_entropy(z, e)), argnums=(0, 1))(z, e)


@pytest.mark.parametrize(
    "chip, codes, width",
    [
        ("v5e", 262_144, 18),
        pytest.param("v5p", 16_384, 256, marks=pytest.mark.slow),
        pytest.param("v6e", 8192, 1000, marks=pytest.mark.slow),
    ],
)
def test_no_score_per_token_and_code_exists_on_a_tpu(chip, codes, width):
    compiled = compile_for_tpu(
        entropies_and_gradient, floats(65_536, width), floats(codes, width), topology=chip
    )
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 5
    stored = 4 * width * (65_536 + codes)
    assert temporary_bytes(compiled) < 2 * stored + 16 * 2**20  # all scores would be 2 to 64 GiB


@pytest.mark.slow  # TPU compilation
def test_the_tpu_kernels_on_a_mesh():
    compiled = compile_for_tpu(
        entropies_and_gradient,
        floats(65_536, 64),
        floats(16_384, 64),
        topology="v5e:4x4",
        axes={"data": 4, "fsdp": 2, "tensor": 2},
        specs=[PartitionSpec(("data", "fsdp")), PartitionSpec()],
    )
    assert "tpu_custom_call" in compiled.as_text()
    assert "all-gather" not in compiled.as_text()
    assert temporary_bytes(compiled) < 64 * 2**20


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@pytest.mark.parametrize("implementation", ["pallas_gpu", None])
def test_it_lowers_for_gpus(platform, implementation):
    step = jax.value_and_grad(lambda z, e: sum(code_entropy(z, e, implementation=implementation)), (0, 1))
    text = lower_for_gpu(step, floats(4096, 200), floats(1000, 200), platform=platform)
    assert ("triton" in text) == (implementation is not None)
