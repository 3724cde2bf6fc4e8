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


@every
@pytest.mark.parametrize("affinity", ["dot", "euclidean"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_it_equals_the_formula_with_its_gradients(kernel, affinity, scale):
    options = {"affinity": affinity, "weights": WEIGHTS, **KERNELS[kernel]}
    ours = lambda z, e, scale: COTANGENT @ jnp.stack(code_entropy(z, e, scale=scale, **options))
    found = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(Z, CODEBOOK, scale)
    with jax.enable_x64(True):
        theirs = lambda z, e, scale: COTANGENT @ jnp.stack(by_hand(z, e, scale, affinity, WEIGHTS))
        exact = jax.value_and_grad(theirs, (0, 1, 2))(
            *(np.asarray(x, np.float64) for x in (Z, CODEBOOK, scale))
        )
        assert exact[0].dtype == jnp.float64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, exact)


@pytest.mark.parametrize("kernel", PASSES)
@pytest.mark.parametrize("tokens, codes, width", [(300, 270, 5), (130, 256, 24), (128, 1, 3)])
def test_kernels_of_several_tiles_equal_the_reference(kernel, tokens, codes, width):
    """All that the passes compute, with scores as large as a low temperature makes them."""
    place, blocks = PASSES[kernel]
    z, codebook = 5 * normal(tokens, width), normal(codes, width, seed=1)
    weights = jnp.asarray(np.arange(tokens) % 3 > 0, jnp.float32)
    by_entropy, by_mass = normal(tokens, seed=2), 10 + normal(codes, seed=3)

    def both(assign, assign_gradient, **options):
        def run(z, codebook):
            (entropy, *rest), mass = assign(z, weights, codebook, **options)
            saved = entropy, *rest, by_entropy
            return entropy, mass, assign_gradient(z, weights, *saved, codebook, by_mass, **options)

        return jax.jit(run)(z, codebook)

    expected = both(reference.assign, reference.assign_gradient)
    found = both(place.assign, place.assign_gradient, blocks=blocks, interpret=True)
    # Of sums of hundreds of terms up to 200: the largest gradient is 22.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)


@pytest.mark.parametrize("kernel", PASSES)
def test_features_too_wide_for_the_chip_go_to_xla(kernel):
    value = jax.value_and_grad(lambda z, **options: sum(code_entropy(z, z[:7], **options)))
    z = normal(9, 1030)
    jax.tree.map(np.testing.assert_array_equal, value(z), value(z, **KERNELS[kernel]))


@every
def test_no_tokens(kernel):
    each, spread = code_entropy(Z[:0], CODEBOOK, **KERNELS[kernel])
    assert each == spread == 0


def test_its_extremes():
    codebook = jnp.eye(8) * 30
    sure, spread = code_entropy(codebook, codebook)
    assert abs(sure) < 1e-6 and spread == pytest.approx(np.log(8), abs=1e-5)
    unsure, _ = code_entropy(jnp.zeros((3, 8)), codebook)
    assert unsure == pytest.approx(np.log(8), abs=1e-5)


@every
def test_sharded_equals_unsharded(kernel):
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    value = jax.jit(
        jax.value_and_grad(lambda z, e: sum(code_entropy(z, e, scale=2.0, **KERNELS[kernel])), (0, 1))
    )
    one = value(Z, CODEBOOK)
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, PartitionSpec())
        many = value(jax.device_put(Z, everywhere), jax.device_put(CODEBOOK, everywhere))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, many)


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
