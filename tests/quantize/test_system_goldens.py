"""Recorded quantizers of published systems that are settings of general ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.quantize.binary import BinaryQuantizer, bit_regulariser, straight_through_bits
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.weights import read_tensors
from tests.quantize.golden import alike, close


def tokens(x):
    return np.moveaxis(np.asarray(x), 1, -1).reshape(x.shape[0], -1, x.shape[1])


def part(tensors, prefix):
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


# SEED's published code has the weight on the other term ("legacy").
@pytest.mark.parametrize("kind, commitment, codebook_weight", [("legacy", 1.0, 0.25), ("fixed", 0.25, 1.0)])
def test_seed(shared, kind, commitment, codebook_weight):
    tensors, _ = read_tensors(shared("goldens/seed_vq.safetensors"))
    io = part(tensors, f"io.{kind}.")
    quantizer = VectorQuantizer(40, 8, commitment=commitment, codebook_weight=codebook_weight)
    params, z = {"codebook": jnp.asarray(tensors[f"{kind}.embedding.weight"])}, jnp.asarray(io["z"])

    def loss(params, z):
        out = quantizer.apply({"params": params}, z)
        target = jnp.mean(jnp.square(out.values - io["target"]))
        return sum(out.losses.values()) + target, out

    @jax.jit
    def run(params, z):
        gradients, out = jax.grad(loss, (0, 1), has_aux=True)(params, z)
        return gradients, out, quantizer.apply({"params": params}, out.codes, method="decode")

    (by_params, by_z), out, entries = jax.device_get(run(params, z))
    np.testing.assert_array_equal(out.codes[..., 0], io["codes"])
    close(out.values, io["quantised"])
    close(sum(out.losses.values()), io["loss"])
    alike(by_z, io["grad_z"])
    alike(by_params["codebook"], io["grad_codebook"])
    close(entries.reshape(-1, 8), io["entry"])


@pytest.fixture(scope="module")
def elm(shared):
    """ELM's binary autoencoder: bits are sampled at temperature 1, and embedded."""
    tensors, _ = read_tensors(shared("goldens/elm_bae.safetensors"))
    state = {k: jnp.asarray(v) for k, v in part(tensors, "bae.").items() if "quantize." in k}
    name = next(k for k in state if k.endswith("proj.0.weight")).removesuffix("proj.0.weight")
    projection = {"kernel": state[f"{name}proj.0.weight"][:, :, 0, 0].T, "bias": state[f"{name}proj.0.bias"]}
    params = {"projection": projection, "embedding": state[f"{name}embed.weight"]}
    return params, part(tensors, "io.")


def test_elm_in_evaluation(elm):
    params, io = elm
    quantizer = BinaryQuantizer(bits=12, width=32, temperature=1.0)
    z, target = tokens(io["encoder"]), tokens(io["grad_target"])

    def loss(params, z):
        out = quantizer.apply({"params": params}, z)
        # ELM's regulariser applies the sigmoid twice.
        logits = quantizer.apply({"params": params}, z, method="logits")
        probabilities = jax.nn.sigmoid(logits)
        regulariser = bit_regulariser(probabilities)
        total = jnp.mean(jnp.square(out.values - target)) + 0.3 * regulariser
        return total, (out, regulariser, probabilities)

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    gradients, (out, regulariser, probabilities) = jax.device_get(run(params, z))
    close(probabilities, tokens(io["probabilities"]))
    np.testing.assert_array_equal(out.codes, tokens(io["bits"]))
    close(out.values, tokens(io["quantised"]))
    close(regulariser, io["code_loss"])
    alike(gradients[0]["embedding"], io["grad_embedding"])
    alike(gradients[1], tokens(io["grad_encoder"]))


def test_elm_with_recorded_samples(elm):
    params, io = elm
    bits = tokens(io["stochastic_bits"])
    run = jax.jit(lambda bits, table: straight_through_bits(jnp.zeros(bits.shape), bits) @ table)
    values = run(bits, params["embedding"])
    close(values, tokens(io["stochastic_quantised"]))


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_elm_sub_codes_have_the_first_bit_most_significant(elm, groups):
    _, io = elm
    bits = np.asarray(tokens(io["bits"])).astype(np.int32)
    size = 12 // groups
    order = tuple(tuple(range(g * size + size - 1, g * size - 1, -1)) for g in range(groups))
    merged = CodeSpace.binary(12).regroup(order).merge(bits)
    np.testing.assert_array_equal(merged, io[f"sub_codes_{groups}"])
