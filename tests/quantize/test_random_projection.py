import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.quantize.random_projection import RandomProjectionQuantizer, layer_norm
from jaxtok.weights import read_tensors
from tests.filled import filled, normal
from tests.quantize.golden import Recordings, alike, cases, close

NAMES = ["one", "multi", "no_norm", "ce_loss"]


@pytest.fixture(scope="module")
def files(shared):
    return Recordings(shared("goldens/vq_zoo_RandomProjectionQuantizer.safetensors"))


@pytest.mark.parametrize("name", cases(NAMES, ["multi", "ce_loss"]))
def test_it_does_what_the_official_class_does(files, name):
    case = files[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    x = jnp.asarray(io["x"])
    run = jax.jit(
        lambda x: (module.apply(variables, x, method="encode"), module.apply(variables, x, train=True))
    )
    codes, out = jax.device_get(run(x))
    np.testing.assert_array_equal(out.codes, codes)
    if name != "ce_loss":
        np.testing.assert_array_equal(codes, io["train.indices"].reshape(codes.shape))
        return
    given = jnp.asarray(io["arg.indices"].astype(np.int32))

    def loss(params, x):
        return module.apply({**variables, "params": params}, x, given, method="cross_entropy")

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables["params"], x)
    close(value, io["train.ce_loss"])
    by_params, by_x = jax.tree.map(lambda g: io["train.cotangent"] * np.asarray(g), gradients)
    alike(by_x, io["train.grad_x_from_quantized"])
    saved = convert.save(dataclasses.replace(case.loaded, variables={**variables, "params": by_params}))
    for name in ("weight", "bias"):
        alike(saved[f"vq.project_in.{name}"], io[f"train.grad_from_quantized.vq.project_in.{name}"])


def test_all_recorded_configurations_are_tested(shared):
    _, metadata = read_tensors(shared("goldens/vq_zoo_RandomProjectionQuantizer.safetensors"))
    assert set(json.loads(metadata["config"])) == set(NAMES)


Z = normal(3, 5, 8)
QUANTIZER = RandomProjectionQuantizer(codes=16, width=8, code_width=3, slots=2)
VARIABLES = filled(QUANTIZER, Z)
ENCODE = jax.jit(lambda z: QUANTIZER.apply(VARIABLES, z, method="encode"))


def test_codes_by_hand():
    state = jax.tree.map(np.asarray, VARIABLES["quantizer"])
    x = np.asarray(Z)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
    codes = ENCODE(Z)
    for slot in range(2):
        cosines = unit(x @ state["projections"][slot]) @ unit(state["codebooks"]["codebook"][slot]).T
        np.testing.assert_array_equal(codes[..., slot], cosines.argmax(-1))


def test_nothing_is_learned_and_scale_does_not_matter():
    assert "params" not in VARIABLES
    np.testing.assert_array_equal(ENCODE(Z), ENCODE(100 * Z + 7))
    np.testing.assert_allclose(layer_norm(Z).mean(-1), 0, atol=1e-6)


def test_many_codes_are_used_by_random_features():
    quantizer = RandomProjectionQuantizer(codes=32, width=16, code_width=8)
    z = normal(16, 128, 16)

    @jax.jit
    def run(z):
        variables = quantizer.init(jax.random.key(0), z)
        return variables, quantizer.apply(variables, z)

    variables, out = jax.device_get(run(z))
    assert (out.statistics["counts"] > 0).mean() > 0.9
    cosines = np.linalg.norm(variables["quantizer"]["codebooks"]["codebook"], axis=-1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    np.testing.assert_allclose(np.std(variables["quantizer"]["projections"]), (2 / 24) ** 0.5, rtol=0.2)


def test_masked_tokens_have_no_effect():
    mask = jnp.arange(5) < jnp.array([5, 2, 1])[:, None]
    codes = ENCODE(Z)

    @jax.jit
    def run(z):
        loss = QUANTIZER.apply(VARIABLES, z, codes, mask, method="cross_entropy")
        return QUANTIZER.apply(VARIABLES, z, mask=mask), loss

    jax.tree.map(np.testing.assert_array_equal, run(Z), run(jnp.where(mask[..., None], Z, Z[::-1])))
