"""What every quantizer promises (DESIGN section 3), on every quantizer."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok.quantize.binary
import jaxtok.quantize.vq
from jaxtok.quantize.binary import BinaryQuantizer
from jaxtok.quantize.vq import VectorQuantizer
from tests.filled import filled, normal

BATCH, TOKENS, WIDTH = 4, 6, 8
Z = normal(BATCH, TOKENS, WIDTH)
QUANTIZERS = {
    "binary": BinaryQuantizer(bits=5, width=WIDTH),
    "gradient": VectorQuantizer(codes=7, width=WIDTH),
    "ema": VectorQuantizer(codes=7, width=WIDTH, learning="ema"),
    "projected": VectorQuantizer(codes=7, width=WIDTH, code_width=3),
    "projected ema": VectorQuantizer(codes=7, width=WIDTH, code_width=3, learning="ema"),
}


@pytest.fixture(scope="module", params=QUANTIZERS)
def case(request):
    """A quantizer, its variables and one compiled function of it."""
    quantizer = QUANTIZERS[request.param]

    @jax.jit
    def run(variables, z):
        train, changed = quantizer.apply(
            variables, z, train=True, key=jax.random.key(0), mutable=["quantizer"]
        )
        codes = quantizer.apply(variables, z, method="encode")
        return {
            "evaluation": quantizer.apply(variables, z),
            "train": train,
            "changed": changed,
            "codes": codes,
            "decoded": quantizer.apply(variables, codes, method="decode"),
        }

    variables = filled(quantizer, Z)
    return quantizer, variables, run, run(variables, Z)


def test_encode_then_decode_is_the_forward_pass_bit_for_bit(case):
    quantizer, _, _, out = case
    np.testing.assert_array_equal(out["codes"], out["evaluation"].codes)
    np.testing.assert_array_equal(out["decoded"], out["evaluation"].values)
    assert out["codes"].shape == (BATCH, TOKENS, quantizer.space.slots) and out["codes"].dtype == jnp.int32
    assert out["decoded"].shape == Z.shape and out["decoded"].dtype == jnp.float32
    quantizer.space.join(np.asarray(out["codes"]))  # within the alphabet


def test_features_in_half_precision_get_the_codes_of_their_float32_values(case):
    _, variables, run, _ = case
    half = Z.astype(jnp.bfloat16)
    a, b = run(variables, half), run(variables, half.astype(jnp.float32))
    np.testing.assert_array_equal(a["codes"], b["codes"])
    np.testing.assert_array_equal(a["evaluation"].values, b["evaluation"].values)
    assert a["evaluation"].values.dtype == jnp.float32


def test_a_forward_pass_changes_no_state(case):
    _, variables, _, out = case
    jax.tree.map(
        np.testing.assert_array_equal, out["changed"].get("quantizer", {}), variables.get("quantizer", {})
    )


def test_losses_are_finite_scalars(case):
    for loss in jax.tree.leaves((case[3]["train"].losses, case[3]["evaluation"].losses)):
        assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)


def test_four_micro_batches_update_like_one_batch(case):
    quantizer, variables, run, out = case
    parts = [run(variables, Z[row : row + 1])["evaluation"].statistics for row in range(BATCH)]
    summed = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), parts)
    state, key = variables.get("quantizer", {}), jax.random.key(1)
    update = jax.jit(quantizer.update)
    once, four = update(state, out["evaluation"].statistics, key), update(state, summed, key)
    assert jax.tree.structure(once) == jax.tree.structure(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), once, four)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out["evaluation"].statistics, summed
    )


def test_the_gradient_reaches_the_features_and_the_parameters(case):
    quantizer, variables, _, _ = case
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    @jax.jit
    def gradients(params, z):
        def loss(params, z):
            out = quantizer.apply({"params": params, **rest}, z, train=True, key=jax.random.key(0))
            return jnp.sum(jnp.sin(out.values)) + sum(out.losses.values())

        return jax.grad(loss, argnums=(0, 1))(params, z)

    for gradient in jax.tree.leaves(gradients(variables.get("params", {}), Z)):
        assert np.isfinite(gradient).all() and np.any(gradient)


@pytest.mark.parametrize("module", [jaxtok.quantize.binary, jaxtok.quantize.vq], ids=lambda m: m.__name__)
def test_the_examples_in_the_documentation_run(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
