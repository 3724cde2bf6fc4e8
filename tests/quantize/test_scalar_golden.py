"""Parity with the recorded `FSQ` and `FSP`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace
from jaxtok.quantize.fsq import FSQ as Module
from jaxtok.quantize.fsq import lattice
from jaxtok.quantize.lfq import LFQ
from jaxtok.weights import read_tensors
from tests.quantize.golden import Recordings, cases, close, with_gradients

FSQ = [
    "basic",
    "projection",
    "multi_codebook",
    "image",
    "channel_first",
    "preserve_symmetry",
    "hard_clamp",
    "symmetry_hard_clamp",
]
FSQ.append("orthogonal_rotation")
FSP = ["tanh", "sigmoid", "normal", "laplace", "cauchy", "projection_inverse", "channel_first"]
GROUPS = {"multi_codebook": 2}


@pytest.fixture(scope="module")
def files(shared):
    return {kind: Recordings(shared(f"goldens/vq_zoo_{kind}.safetensors")) for kind in ("FSQ", "FSP")}


CASES = [("FSQ", name) for name in FSQ] + [("FSP", name) for name in FSP]


@pytest.mark.parametrize("kind, name", cases(CASES, [("FSQ", "projection"), ("FSP", "normal")]))
def test_it_does_what_the_official_class_does(files, kind, name):
    case = files[kind][name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    x, groups = jnp.asarray(case["x"]), GROUPS.get(name, 1)
    levels = CodeSpace(tuple(case.config["args"]["levels"]))

    def index(codes):
        parts = [levels.join(np.asarray(part)) for part in np.split(np.asarray(codes), groups, axis=-1)]
        return np.stack(parts, axis=-1)

    @jax.jit
    def run(variables, x):
        apply = lambda x, train: module.apply(variables, x, train=train, key=jax.random.key(0))
        out, loss, gradients = with_gradients(lambda x: apply(x, True), case["train.cotangent"], x)
        decoded = module.apply(variables, out.codes, method="decode")
        return {"eval": apply(x, False), "train": out}, decoded, loss, gradients

    phases, decoded, loss, gradients = jax.device_get(run(variables, x))
    for phase, out in phases.items():
        close(out.values, case[f"{phase}.quantized"], f"values, {phase}")
        np.testing.assert_array_equal(index(out.codes), io[f"{phase}.indices"].reshape(*x.shape[:2], groups))
    close(decoded, case["eval.decoded"], "decoded")
    close(gradients["quantized"][0], case["train.grad_x_from_quantized"], "gradient of values")
    if "train.loss" in io:
        assert set(out.losses) == {"moments"}
        close(loss, io["train.loss"], "loss")
        close(gradients["loss"][0], case["train.grad_x_from_loss"], "gradient of the loss")


@pytest.mark.parametrize("name", FSQ)
def test_all_codes_have_the_official_values(files, name):
    case = files["FSQ"][name]
    levels = tuple(case.config["args"]["levels"])
    codes = CodeSpace(levels).split(np.arange(CodeSpace(levels).size))
    values = jax.jit(lambda codes: lattice(codes, levels, case.loaded.module.symmetric))(codes)
    close(values, case.io["const.implicit_codebook"])


def test_all_recorded_configurations_are_tested(shared):
    for kind, names in (("FSQ", FSQ), ("FSP", FSP)):
        _, metadata = read_tensors(shared(f"goldens/vq_zoo_{kind}.safetensors"))
        assert set(json.loads(metadata["config"])) == set(names)


def test_flextok(shared):
    io, _ = read_tensors(shared("goldens/flextok.safetensors"))
    module, z = Module((8, 8, 8, 5, 5, 5)), jnp.asarray(io["io.register_latents"])
    cotangent = jnp.asarray(io["io.fsq.cotangent"])

    @jax.jit
    def run(z):
        out = module.apply({}, z)
        weigh = lambda z: jnp.vdot(module.apply({}, z, train=True).values, cotangent)
        return out, module.apply({}, out.codes, method="decode"), jax.grad(weigh)(z)

    out, decoded, gradient = jax.device_get(run(z))
    np.testing.assert_array_equal(module.space.join(out.codes), io["io.tokens"])
    close(out.values, io["io.quantized"], "values")
    close(decoded, io["io.codes_from_tokens"], "decoded")
    close(gradient, io["io.fsq.grad"], "gradient")


def coded(module, variables, z):
    """The forward pass and what its codes decode to."""

    @jax.jit
    def run(variables, z):
        out = module.apply(variables, z)
        return out, module.apply(variables, out.codes, method="decode")

    return jax.device_get(run(variables, z))


def test_atoken(shared):
    io, _ = read_tensors(shared("goldens/atoken_fsq.safetensors"))
    levels = CodeSpace((4,) * 6)
    module = Module(levels.levels, groups=2)
    out, decoded = coded(module, {}, jnp.asarray(io["io.pre_quant"])[None])
    codes = out.codes[0]
    joined = np.stack([levels.join(codes[:, :6]), levels.join(codes[:, 6:])], axis=-1)
    np.testing.assert_array_equal(joined, io["io.indices"])
    close(out.values[0], io["io.quantised"], "values")
    close(decoded[0], io["io.codes_from_indices"], "decoded")


@pytest.mark.parametrize("name", ["codebook_fsq_1024", "codebook_fsq_16384", "codebook_lfq_256", "lfq"])
def test_openpi(shared, name):
    tensors, _ = read_tensors(shared("goldens/openpi_fsq.safetensors"))
    down, up = ("project_down", "project_up") if name == "lfq" else ("proj_down", "proj_up")
    linear = lambda side: {leaf: jnp.asarray(tensors[f"{name}.{side}.{leaf}"]) for leaf in ("kernel", "bias")}
    variables = {"params": {"inward": linear(down), "outward": linear(up)}}
    x = jnp.asarray(tensors[f"io.{name}.input"])[None]
    if name.endswith("lfq_256") or name == "lfq":
        module = LFQ(linear(down)["bias"].size, width=x.shape[-1], entropy_weight=0.0)
    else:
        levels = tuple(int(n) for n in tensors[f"io.{name}.bins"])
        module = Module(levels, width=x.shape[-1], symmetric=True)
    out, decoded = coded(module, variables, x)
    np.testing.assert_array_equal(module.space.join(out.codes[0]), tensors[f"io.{name}.tokens"])
    close(out.values[0], tensors[f"io.{name}.{'z_q' if name == 'lfq' else 'output'}"], "values")
    close(decoded[0], tensors[f"io.{name}.decoded"], "decoded")
