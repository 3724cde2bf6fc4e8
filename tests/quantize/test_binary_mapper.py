import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.quantize.binary_mapper import (
    BinaryMapper,
    bit_entropy,
    divergence,
    index_of,
    joint_distribution,
    log_probability,
)
from jaxtok.weights import read_tensors
from tests.filled import filled, normal
from tests.quantize.golden import Recordings, alike, cases, close

NAMES = ["deterministic", "threshold", "unreduced", "no_straight_through"]


@pytest.fixture(scope="module")
def files(shared):
    return Recordings(shared("goldens/vq_zoo_BinaryMapper.safetensors"))


@pytest.mark.parametrize("name", cases(NAMES, ["threshold"]))
def test_it_does_what_the_official_class_does(files, name):
    case = files[name]
    module, io, x = case.loaded.module, case.io, jnp.asarray(case.io["x"])
    other = jnp.asarray(io["other_indices"].astype(np.int32))
    cotangent = jnp.zeros(()) if name == "no_straight_through" else jnp.asarray(io["train.cotangent"])

    @jax.jit
    def run(x):
        def weigh(x):
            out = module.apply({}, x, train=True)
            values = out.values[..., 0] if name == "no_straight_through" else out.values * cotangent
            return jnp.sum(values), out

        gradient, out = jax.grad(weigh, has_aux=True)(x)
        return {
            "out": out,
            "gradient": gradient,
            "divergence": divergence(x, module.threshold),
            "entropy": bit_entropy(x),
            "log_prob": (log_probability(x, out.codes[..., 0]), log_probability(x, other)),
        }

    found = jax.device_get(run(x))
    out = found["out"]
    np.testing.assert_array_equal(out.codes[..., 0], io["train.indices"])
    close(out.values, io["train.one_hot"])
    if name == "unreduced":
        close(found["divergence"], io["train.aux_loss"])
    else:
        close(out.losses["divergence"], io["train.aux_loss"])
    close(found["entropy"], io["binary_entropy"])
    close(found["log_prob"][0], io["log_prob"])
    close(found["log_prob"][1], io["other_log_prob"])
    if name == "no_straight_through":
        assert not np.any(found["gradient"])
        return
    alike(found["gradient"], io["train.grad_x_from_quantized"])


def test_recorded_draws_have_our_distribution(shared):
    tensors, _ = read_tensors(shared("goldens/vq_zoo_BinaryMapper.safetensors"))
    logits = jnp.asarray(tensors["io.stochastic.x"])
    theirs = tensors["io.stochastic.indices"]

    @jax.jit
    def run(logits):
        out = BinaryMapper(bits=4).apply({}, logits[None], train=True, key=jax.random.key(0))
        return out.codes[0, :, 0], joint_distribution(logits).sum(0)

    ours, expected = jax.device_get(run(logits))
    for drawn in (theirs, np.asarray(ours)):
        counts = np.bincount(drawn, minlength=16)
        assert np.sum((counts - expected) ** 2 / expected) < 38  # chi squared of 15 degrees: p = 0.001


def test_probabilities_of_all_indices():
    logits = normal(7, 5)

    @jax.jit
    def run(logits):
        of_each = jax.vmap(lambda i: log_probability(logits, jnp.full(7, i)))(jnp.arange(32))
        return joint_distribution(logits), jnp.exp(of_each), bit_entropy(logits), jax.nn.sigmoid(logits)

    joint, of_each, entropy, p = jax.device_get(run(logits))
    np.testing.assert_allclose(joint.sum(-1), 1, atol=1e-6)
    for bits in itertools.product((0, 1), repeat=5):
        index = sum(b << j for j, b in enumerate(bits))
        close(joint[:, index], np.prod(np.where(bits, p, 1 - p), -1))
        close(of_each[index], joint[:, index])
    close(entropy, -np.sum(np.asarray(joint) * np.log(joint), -1))


def test_saturated_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    functions = (bit_entropy, lambda x: divergence(x, 0.0), lambda x: log_probability(x, jnp.array([1])))

    @jax.jit
    def run(logits):
        pulled = [jax.vjp(function, logits) for function in functions]
        gradients = [(value, pull(jnp.ones(1))) for value, pull in pulled]
        return gradients, divergence(logits, 0.0), divergence(logits, np.log(2))

    gradients, even, fair = jax.device_get(run(logits))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    close(even, [2 * np.log(2)])
    close(fair, [np.log(2)])


def test_every_index_is_reached_and_is_the_join_of_its_bits():
    codes = np.arange(16)
    bits = jnp.asarray(CodeSpace.binary(4).split(codes))
    run = jax.jit(lambda bits: (index_of(bits == 1), BinaryMapper(bits=4).apply({}, (2.0 * bits - 1)[None])))
    index, out = jax.device_get(run(bits))
    np.testing.assert_array_equal(index, codes)
    np.testing.assert_array_equal(out.codes[0, :, 0], codes)
    np.testing.assert_array_equal(out.values[0], np.eye(16))


Z = normal(3, 4, 6)
QUANTIZER = BinaryMapper(bits=3, width=6)
VARIABLES = filled(QUANTIZER, Z)


def test_the_table_gets_the_gradient_of_the_choice_and_the_logits_that_of_the_distribution():
    cotangent = normal(3, 4, 6, seed=1)

    def formula(params, z):
        logits = z @ params["projection"]["kernel"] + params["projection"]["bias"]
        joint = joint_distribution(logits)
        hard = jax.nn.one_hot(index_of(logits > 0), 8)
        return jnp.vdot((hard + joint - jax.lax.stop_gradient(joint)) @ params["embedding"], cotangent)

    ours = lambda params, z: jnp.vdot(QUANTIZER.apply({"params": params}, z).values, cotangent)
    got, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(VARIABLES["params"], Z) for f in (ours, formula))
    jax.tree.map(close, got, expected)
    logits = jax.eval_shape(lambda: QUANTIZER.apply(VARIABLES, Z, method="logits"))
    assert logits.shape == (3, 4, 3)


def test_masked_tokens_have_no_effect():
    mask = jnp.arange(4) < jnp.array([4, 2, 1])[:, None]
    run = jax.jit(lambda z: QUANTIZER.apply(VARIABLES, z, train=True, key=jax.random.key(1), mask=mask))
    jax.tree.map(np.testing.assert_array_equal, run(Z), run(jnp.where(mask[..., None], Z, 7.0)))


def test_too_many_bits():
    with pytest.raises(ValueError, match="bits=40"):
        BinaryMapper(bits=40).apply({}, normal(1, 1, 40))
