"""Parity with the recorded `LFQ`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.weights import read_tensors
from tests.quantize.golden import close, recordings

NAMES = (
    "basic projection multi_codebook spherical_bsq image soft_clamp_softplus cosine_project codebook_scale "
    "orthogonal_rotation masked"
).split()


@pytest.fixture(scope="module")
def files(shared):
    return recordings(shared("goldens/vq_zoo_LFQ.safetensors"))


def big_endian(codes, bits):
    codes = np.asarray(codes)
    return sum(((codes >> j) & 1) << (bits - 1 - j) for j in range(bits))


def all_probabilities(module, inner, mask, floor):
    """Both entropies by holding a probability per token and code; `floor` is that of the entropy per sample."""
    bits = (np.arange(2**module.bits)[:, None] >> np.arange(module.bits)) & 1
    size = module.scale / module.bits**0.5 if module.spherical else module.scale
    logits = 2 * module.inverse_temperature * jnp.einsum("bngd,kd->bngk", inner, size * (2.0 * bits - 1))
    p = jax.nn.softmax(logits, axis=-1)
    if mask is not None:
        p = p[np.asarray(mask)][:, None]
    logs = jnp.log(jnp.maximum(p, floor)) if floor else jax.nn.log_softmax(logits, axis=-1)
    if mask is not None and not floor:
        logs = logs[np.asarray(mask)][:, None]
    mean = p.mean((0, 1))
    batch = -(mean * jnp.log(jnp.maximum(mean, 1e-5))).sum(-1).mean()
    return -(p * logs).sum(-1).mean(), batch


@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_the_official_class_does(files, name):
    case = files[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    x = jnp.asarray(case["x"])
    mask = jnp.asarray(io["arg.mask"].astype(bool)) if "arg.mask" in io else None
    run = lambda x: module.apply(variables, x, train=True, mask=mask)
    out = run(x)
    # The official class quantizes padding as well.
    real = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask)
    theirs = io["eval.indices"].reshape(*x.shape[:2], module.groups)
    np.testing.assert_array_equal(big_endian(out.codes, module.bits)[real], theirs[real])
    close(out.values[real], case["eval.quantized"][real], "values in evaluation")
    close(out.values[real], case["train.quantized"][real], "values in training")
    close(module.apply(variables, out.codes, method="decode")[real], case["eval.decoded"][real], "decoded")

    inner = module.apply(variables, x, method="inner")
    sample, batch = module.apply(variables, inner, module.inverse_temperature, mask, method="entropies")
    close(sample, io["train.breakdown.per_sample_entropy"], "entropy per sample")
    if mask is None:
        close(batch, io["train.breakdown.batch_entropy"], "entropy of the batch")
    else:  # upstream averages over nothing when there is a mask, and gets the entropy per sample again
        close(sample, io["train.breakdown.batch_entropy"], "entropy of the batch")

    def brute_force(floor):
        def loss(x):
            inner = module.apply(variables, x, method="inner")
            sample, batch = all_probabilities(module, inner, mask, floor)
            term = sample - module.diversity * (batch if mask is None or not floor else sample)
            offset = module.softplus_offset
            term = term if offset is None else jax.nn.softplus(term + offset)
            commitment = run(x).losses.get("commitment", 0.0)
            return module.entropy_weight * term + commitment

        return loss

    # Upstream has its floor of 1e-5 in the entropy per sample too, where it bends gradients of very unlikely
    # codes.
    close(brute_force(1e-5)(x), io["train.loss"], "loss")
    # Upstream's softmax has logits of this size, each rounded to float32, which its probabilities inherit.
    size = module.scale / module.bits**0.5 if module.spherical else module.scale
    rounding = (
        np.finfo(np.float32).eps * float(jnp.abs(inner).sum(-1).max()) * 2 * module.inverse_temperature * size
    )
    theirs = case["train.grad_x_from_loss"]
    np.testing.assert_allclose(jax.grad(brute_force(1e-5))(x), theirs, atol=1e-5, rtol=2 * rounding)
    loss = lambda x: sum(run(x).losses.values(), jnp.float32(0))
    close(loss(x), brute_force(0.0)(x), "loss without the floor")
    close(jax.grad(loss)(x), jax.grad(brute_force(0.0))(x), "gradient of the loss without the floor")
    if mask is None:
        close(loss(x), io["train.loss"], "loss")
    cotangent = jnp.asarray(case["train.cotangent"]) * real[..., None]
    close(
        jax.grad(lambda x: jnp.vdot(run(x).values, cotangent))(x)[real],
        case["train.grad_x_from_quantized"][real],
        "gradient of values",
    )


def test_all_recorded_configurations_are_tested(shared):
    _, metadata = read_tensors(shared("goldens/vq_zoo_LFQ.safetensors"))
    assert set(json.loads(metadata["config"])) == set(NAMES)
