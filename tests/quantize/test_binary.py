import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.keys import example_keys
from jaxtok.quantize.binary import (
    BinaryQuantizer,
    bit_regulariser,
    sample_bits,
    straight_through_bits,
)
from jaxtok.quantize.health import bit_health
from tests.filled import filled, normal

LOGITS = normal(3, 4, 5)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.mark.parametrize("temperature", [0.1, 3.0])
def test_the_forward_value_is_the_bit_and_the_gradient_ignores_the_temperature(temperature):
    upstream = normal(3, 4, 5, seed=1)

    @jax.jit
    def run(logits, key):
        def forward(logits):
            return straight_through_bits(logits, sample_bits(logits, temperature, example_keys(key, 3)))

        bits, pull = jax.vjp(forward, logits)
        return bits, pull(upstream)[0]

    bits, gradient = run(LOGITS, jax.random.key(0))
    assert set(np.unique(bits)) == {0.0, 1.0}
    p = sigmoid(LOGITS)
    np.testing.assert_allclose(gradient, p * (1 - p) * upstream, atol=1e-6)


def test_bits_are_drawn_with_the_sigmoid_of_the_cooled_logit():
    logits = jnp.broadcast_to(jnp.asarray([-1.0, 0.0, 0.5]), (2, 5000, 3))
    draw = jax.jit(lambda temperature: sample_bits(logits, temperature, example_keys(jax.random.key(0), 2)))
    for temperature in (0.5, 2.0):
        p = sigmoid(np.array([-1.0, 0.0, 0.5]) / temperature)
        error = np.abs(np.mean(draw(jnp.float32(temperature)), axis=(0, 1)) - p)
        assert (error < 4 * np.sqrt(p * (1 - p) / 10_000)).all()


def test_the_regulariser_is_largest_at_zero_and_vanishes_at_saturation():
    inputs = jnp.zeros(4), jnp.asarray([-200.0, 200.0]), jnp.asarray([-200.0, 200.0, 5.0]), LOGITS
    zero, saturated, between, drawn = jax.jit(lambda *inputs: [bit_regulariser(x) for x in inputs])(*inputs)
    assert zero == 0.25
    assert saturated == 0
    assert 0 < between < 0.25
    p = sigmoid(LOGITS)
    assert drawn == pytest.approx(np.mean(p * (1 - p)), abs=1e-6)


@pytest.fixture(scope="module")
def quantizer():
    module = BinaryQuantizer(bits=5, width=3)
    variables = filled(module, normal(2, 4, 3))
    return module, variables, jax.jit(lambda v, z, key, t: module.apply(v, z, True, key, t))


def test_a_token_is_the_sum_of_the_embeddings_of_its_on_bits(quantizer):
    module, variables, _ = quantizer
    table = np.asarray(variables["params"]["embedding"])
    decode = jax.jit(lambda codes: module.apply(variables, codes, method="decode"))
    every = np.array([[(i >> q) & 1 for q in range(5)] for i in range(32)])[None]
    np.testing.assert_allclose(decode(every)[0], every[0] @ table, atol=1e-6)
    np.testing.assert_allclose(decode(0.5 * every)[0], 0.5 * every[0] @ table, atol=1e-6)


def test_every_token_can_be_reached(quantizer):
    _, variables, _ = quantizer
    wide = BinaryQuantizer(bits=5, width=5)
    every = np.array([[(i >> q) & 1 for q in range(5)] for i in range(32)])[None]
    projection = {"kernel": np.eye(5, dtype=np.float32), "bias": np.zeros(5, np.float32)}
    variables = {"params": {"projection": projection, "embedding": np.zeros((5, 5), np.float32)}}
    codes = wide.apply(variables, jnp.asarray(2.0 * every - 1), method="encode")
    np.testing.assert_array_equal(codes, every)


def test_noise_belongs_to_the_example(quantizer):
    _, variables, run = quantizer
    keys, z = example_keys(jax.random.key(1), 4), normal(4, 4, 3, seed=2)
    whole = run(variables, z, keys, jnp.float32(1.0)).codes
    halves = [run(variables, z[i : i + 2], keys[i : i + 2], jnp.float32(1.0)).codes for i in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    assert (run(variables, z[:2], keys[2:], jnp.float32(1.0)).codes != whole[:2]).any()


def test_a_vanishing_temperature_thresholds(quantizer):
    module, variables, run = quantizer
    z = normal(2, 4, 3)
    hard = jax.jit(lambda v: module.apply(v, z, method="encode"))(variables)
    np.testing.assert_array_equal(run(variables, z, jax.random.key(0), jnp.float32(1e-6)).codes, hard)
    zero = BinaryQuantizer(bits=5, width=3, temperature=0.0)
    np.testing.assert_array_equal(jax.jit(lambda v: zero.apply(v, z, train=True))(variables).codes, hard)


def test_health_of_the_bits():
    health = jax.jit(bit_health)(jnp.asarray([0.0, 8.0, 4.0, 2.0]), jnp.float32(8))
    quarter = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert health["bit_entropy"] == pytest.approx((1 + quarter) / 4, abs=1e-5) and health["dead_bits"] == 2
