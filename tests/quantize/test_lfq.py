"""Look-up free quantization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.quantize.health import health
from jaxtok.quantize.lfq import LFQ, pack_bits, unpack_bits
from tests.filled import filled, normal
from tests.quantize.golden import cases
from tests.quantize.masks import Z, check_masked_tokens


def apply(module, *args, **kwargs):
    """What a module without variables returns, in one compilation."""
    return jax.jit(functools.partial(module.apply, **kwargs))({}, *args)


@settings(max_examples=4)
@given(bits=st.integers(1, 12), groups=st.integers(1, 3))
def test_every_code_comes_back(bits, groups):
    module = LFQ(bits=bits, groups=groups, entropy_weight=0.0)
    codes = np.arange(2**bits, dtype=np.int32)
    np.testing.assert_array_equal(pack_bits(unpack_bits(codes, bits)), codes)
    codes = jnp.asarray(np.stack([np.roll(codes, g) for g in range(groups)], -1))[None]

    @jax.jit
    def run(codes):
        values = module.apply({}, codes, method="decode")
        return values, module.apply({}, values, method="encode"), module.apply({}, values).codes

    values, encoded, forward = jax.device_get(run(codes))
    assert np.all(np.abs(values) == 1)
    np.testing.assert_array_equal(encoded, codes)
    np.testing.assert_array_equal(forward, codes)


def test_thirty_one_bits_fit():
    module = LFQ(bits=31, entropy_weight=0.0)
    codes = jnp.asarray([[[2**31 - 1]], [[1]]])
    values = apply(module, codes, method="decode")
    np.testing.assert_array_equal(apply(module, values, method="encode"), codes)


def test_bit_zero_is_the_fastest_and_zero_is_off():
    module = LFQ(bits=3, scale=0.5)
    z = jnp.asarray([[[1.0, -1.0, -1.0], [-1.0, 1.0, -2.0], [0.0, 0.0, 3.0], [0.0, -0.0, 0.0]]])
    out = apply(module, z)
    np.testing.assert_array_equal(out.codes[0, :, 0], [1, 2, 4, 0])
    np.testing.assert_array_equal(out.values[0, 0], [0.5, -0.5, -0.5])


def test_spherical_codes_lie_on_the_sphere():
    module = LFQ(bits=4, groups=2, spherical=True, scale=3.0)

    @jax.jit
    def run(z):
        def loss(z):
            out = module.apply({}, z, train=True)
            return sum(out.losses.values()), out

        gradient, out = jax.grad(loss, has_aux=True)(z)
        return out, gradient, module.apply({}, z, method="inner")

    (out, _, inner), (scaled, _, _), (_, gradient, _) = (jax.device_get(run(x)) for x in (Z, 7 * Z, 0 * Z))
    np.testing.assert_allclose(np.linalg.norm(out.values.reshape(4, 6, 2, 4), axis=-1), 3.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(inner, axis=-1), 3.0, rtol=1e-6)
    for name, loss in out.losses.items():  # the length of the features does not matter
        np.testing.assert_allclose(scaled.losses[name], loss, rtol=1e-4)
    assert np.isfinite(gradient).all()


def test_the_gradient_goes_straight_through():
    cotangent = normal(4, 6, 8, seed=1)
    gradient = jax.jit(jax.grad(lambda z: jnp.vdot(LFQ(bits=8).apply({}, z).values, cotangent)))(Z)
    np.testing.assert_array_equal(gradient, cotangent)


def test_gradient_of_the_commitment_by_hand():
    module = LFQ(bits=8, commitment=0.3, entropy_weight=0.0, scale=0.5)
    gradient = jax.jit(jax.grad(lambda z: module.apply({}, z).losses["commitment"]))(Z)
    np.testing.assert_allclose(gradient, 0.3 * 2 * (Z - 0.5 * jnp.sign(Z)) / Z.size, atol=1e-7)


def test_gradient_of_the_entropy_per_token_by_hand():
    """d H_b(sigmoid(a x)) / dx = -a^2 x p (1 - p)."""
    module = LFQ(bits=8, commitment=0.0, entropy_weight=0.2, diversity=0.0, inverse_temperature=0.7)
    gradient = jax.jit(jax.grad(lambda z: module.apply({}, z).losses["entropy"]))(Z)
    a, p = 4 * 0.7, jax.nn.sigmoid(4 * 0.7 * Z)
    np.testing.assert_allclose(gradient, 0.2 * -(a**2) * Z * p * (1 - p) / 24, atol=1e-7)


def test_gradient_of_the_factorised_batch_entropy_by_hand():
    """d -H_b(m_j) / dx_ij = log(m / (1 - m)) a p (1 - p) / N."""
    options = {"batch_entropy": "factorised", "inverse_temperature": 0.7, "commitment": 0.0}
    difference = lambda z: sum(
        sign * LFQ(bits=8, entropy_weight=1.0, diversity=gamma, **options).apply({}, z).losses["entropy"]
        for sign, gamma in ((1, 1.0), (-1, 0.0))
    )
    a, p = 4 * 0.7, jax.nn.sigmoid(4 * 0.7 * Z)
    m = jnp.mean(p, axis=(0, 1))
    expected = jnp.log(m / (1 - m)) * a * p * (1 - p) / 24
    np.testing.assert_allclose(jax.jit(jax.grad(difference))(Z), expected, atol=1e-6)


def test_one_softplus_keeps_the_term_positive():
    plain, soft = LFQ(bits=8, commitment=0.0), LFQ(bits=8, commitment=0.0, softplus_offset=2.0)
    term = apply(plain, Z).losses["entropy"] / 0.1
    np.testing.assert_allclose(apply(soft, Z).losses["entropy"], 0.1 * np.log1p(np.exp(term + 2)), rtol=1e-5)


def test_annealing_replaces_the_inverse_temperature():
    warm = apply(LFQ(bits=8, inverse_temperature=1.0), Z).losses["entropy"]
    np.testing.assert_array_equal(apply(LFQ(bits=8), Z, inverse_temperature=1.0).losses["entropy"], warm)


VARIANTS = {
    "plain": LFQ(bits=8),
    "spherical": LFQ(bits=4, groups=2, spherical=True, width=8, project="always"),
    "rotated": LFQ(bits=4, groups=2, rotated=True, soft_clamp=1.5, batch_entropy="pooled", log_floor="add"),
    "cosine": LFQ(bits=5, width=8, projection="cosine", projection_scale=2.0, batch_entropy="factorised"),
    "floored": LFQ(bits=3, width=8, floored_samples=True, softplus_offset=1.0, projection_bias=False),
}


@pytest.mark.parametrize("name", cases(VARIANTS, ["plain", "floored"]))
def test_masked_tokens_have_no_effect(name):
    check_masked_tokens(VARIANTS[name])


def test_statistics_are_counts_or_bits():
    z = normal(4, 6, 34)
    counted, bitwise = apply(LFQ(bits=4, groups=2), Z), apply(LFQ(bits=17, groups=2), z)
    assert counted.statistics["counts"].shape == (2, 16)
    assert counted.statistics["counts"].sum() == 48
    np.testing.assert_array_equal(bitwise.statistics["on"], np.sum(z > 0, axis=(0, 1)))
    assert bitwise.statistics["tokens"] == 24
    assert 0 < jax.jit(health)(counted.statistics)["bits_per_token"] <= 8
    assert 0 < jax.jit(health)(bitwise.statistics)["bits_per_token"] <= 34


def test_all_codes_are_reachable():
    out = apply(LFQ(bits=6), normal(8, 128, 6))
    assert jax.jit(health)(out.statistics)["usage"] == 1


@pytest.mark.parametrize(
    "options, match",
    [
        ({"bits": 0}, "bits=0"),
        ({"bits": 32}, "bits=32"),
        ({"bits": 23}, "factorised"),
    ],
)
def test_impossible_sizes_are_refused(options, match):
    module = LFQ(**options)
    start = lambda module: jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1, module.bits)))
    with pytest.raises(ValueError, match=match):
        start(module)
    start(LFQ(bits=30, batch_entropy="factorised"))


@pytest.mark.parametrize("name", cases(["plain", "spherical", "floored"], ["spherical"]))
def test_a_step_on_eight_devices_is_the_step_on_one(name):
    module = VARIANTS[name]
    z = normal(8, 6, 8)
    variables = filled(module, z)
    state = {k: v for k, v in variables.items() if k != "params"}

    def step(params, z):
        def loss(params, z):
            out = module.apply({"params": params, **state}, z, train=True)
            return jnp.sum(jnp.sin(out.values)) + sum(out.losses.values()), (out.losses, out.statistics)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, z)

    params = variables.get("params", {})
    alone = jax.jit(step)(params, z)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        together = jax.jit(step)(params, jax.device_put(z, rows))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), together, alone)


def test_eighteen_bits_need_little_memory():
    """The whole module and its gradient: nothing of size [tokens, 2^18], which would be 17 GB."""
    module = LFQ(bits=18)
    step = jax.value_and_grad(lambda z: sum(module.apply({}, z).losses.values()))
    memory = (
        jax.jit(step).lower(jax.ShapeDtypeStruct((16, 1024, 18), jnp.float32)).compile().memory_analysis()
    )
    assert memory.temp_size_in_bytes < 64 * 2**20
