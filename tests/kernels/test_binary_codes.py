import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.kernels import binary_codes
from jaxtok.kernels.binary_codes.api import unpack_words
from tests.filled import normal
from tests.kernels.ahead_of_time import compile_for_tpu, floats, lower_for_gpu, temporary_bytes

KERNELS = {
    "xla": {"implementation": "xla"},
    "pallas_tpu": {"implementation": "pallas_tpu", "interpret": True},
    "pallas_gpu": {"implementation": "pallas_gpu", "interpret": True},
}


@jax.jit
def there_and_back(logits):
    words = binary_codes(logits).words
    return words, unpack_words(words, logits.shape[1])


# Around the ends of words; every shape compiles.
@given(st.sampled_from([(5, 1), (3, 31), (3, 32), (3, 33), (5, 70), (0, 5)]), st.integers(0, 2**32 - 1))
def test_packed_bits_come_back(shape, seed):
    logits = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    logits[logits > 1.5] = 0  # on the threshold is off
    words, bits = there_and_back(logits)
    assert words.shape == (shape[0], -(-shape[1] // 32)) and words.dtype == jnp.uint32
    np.testing.assert_array_equal(bits, logits > 0)


def test_statistics_by_hand():
    logits, mask = np.asarray(normal(9, 40)), np.arange(9) % 3 > 0
    codes = jax.jit(lambda x, mask: binary_codes(x, temperature=0.5, mask=mask))(logits, mask)
    p = 1 / (1 + np.exp(-2 * logits[mask].astype(np.float64)))
    np.testing.assert_array_equal(codes.on, (logits[mask] > 0).sum(0))
    assert codes.tokens == mask.sum()
    np.testing.assert_allclose(codes.probability, p.sum(0), rtol=1e-5)
    np.testing.assert_allclose(codes.entropy, -(p * np.log(p) + (1 - p) * np.log1p(-p)).sum(0), rtol=1e-5)
    assert not np.asarray(codes.words)[~mask].any()


@pytest.mark.parametrize(
    "tokens, bits", [(1, 1), pytest.param(300, 18, marks=pytest.mark.slow), (130, 70), (40, 300)]
)
def test_kernels_give_the_same(tokens, bits):
    logits = normal(tokens, bits).at[0].set(jnp.nan).at[-1, 0].set(0.0)
    mask = jnp.asarray(np.arange(tokens) % 3 > 0)  # not the token of NaN

    @jax.jit
    def run(logits, mask):
        return {
            name: binary_codes(logits, temperature=0.5, mask=mask, **options)
            for name, options in KERNELS.items()
        }

    found = run(logits, mask)
    one = found.pop("xla")
    for name, other in found.items():
        np.testing.assert_array_equal(one.words, other.words, err_msg=name)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
        assert np.isfinite(np.asarray(other.entropy)).all(), name


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_the_kernel_lowers_for_gpus(platform):
    text = lower_for_gpu(
        lambda x: binary_codes(x, implementation="pallas_gpu"), floats(4096, 18), platform=platform
    )
    assert "triton" in text


@pytest.mark.parametrize(  # TPU compilations
    "chip, bits",
    [
        pytest.param("v5e", 18, marks=pytest.mark.slow),
        pytest.param("v5p", 300, marks=pytest.mark.slow),
        pytest.param("v6e", 300, marks=pytest.mark.slow),
        pytest.param("v5e", 300, marks=pytest.mark.exhaustive),
        pytest.param("v5p", 18, marks=pytest.mark.exhaustive),
        pytest.param("v6e", 18, marks=pytest.mark.exhaustive),
    ],
)
def test_the_kernel_compiles_for_tpus(chip, bits):
    compiled = compile_for_tpu(binary_codes, floats(65536, bits), topology=chip)
    assert "tpu_custom_call" in compiled.as_text()
    # Not more than the logits with tokens in lanes and the words.
    assert temporary_bytes(compiled) < 65536 * 4 * (-(-bits // 256) * 256 + 32)


def test_sharded_equals_unsharded():
    logits = normal(13, 33)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    one = jax.jit(binary_codes)(logits)
    with jax.set_mesh(mesh):
        many = jax.jit(binary_codes)(jax.device_put(logits, NamedSharding(mesh, PartitionSpec())))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, many)


def test_bad_input():
    with pytest.raises(ValueError, match="temperature=0"):
        binary_codes(jnp.zeros((2, 3)), temperature=0.0)
    with pytest.raises(ValueError, match="70 bits do not fit 2 words"):
        unpack_words(jnp.zeros((1, 2), jnp.uint32), 70)
