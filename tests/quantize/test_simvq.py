import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.quantize.bridge import FVQ
from jaxtok.quantize.simvq import SimVQ
from tests.filled import filled, normal
from tests.quantize.golden import Recordings, alike, cases, close, with_gradients

CASES = {
    "SimVQ": ["rotation", "straight_through", "channel_first_mlp"],
    "VectorQuantize": ["vq_bridge"],
}


@pytest.fixture(scope="module")
def files(shared):
    return {kind: Recordings(shared(f"goldens/vq_zoo_{kind}.safetensors")) for kind in CASES}


QUICK = [("SimVQ", "rotation"), ("VectorQuantize", "vq_bridge")]


@pytest.mark.parametrize(
    "kind, name", cases([(kind, n) for kind, names in CASES.items() for n in names], QUICK)
)
def test_it_does_what_the_official_class_does(files, kind, name):
    case = files[kind][name]
    module, io = case.loaded.module, case.io
    x, rest = jnp.asarray(case["x"]), case.loaded.variables.get("quantizer", {})

    @jax.jit
    def run(params, x):
        train = lambda params, x: module.apply({"params": params, "quantizer": rest}, x, train=True)
        out, loss, gradients = with_gradients(train, case["train.cotangent"], params, x)
        decoded = module.apply({"params": params, "quantizer": rest}, out.codes, method="decode")
        return out, decoded, loss, gradients["quantized"][1], gradients["loss"]

    found = run(case.loaded.variables["params"], x)
    out, decoded, loss, by_values, (by_params, by_loss) = jax.device_get(found)
    close(out.values, case["eval.quantized"], "values")
    np.testing.assert_array_equal(out.codes[..., 0], io["eval.indices"].reshape(out.codes.shape[:2]))
    if "eval.decoded" in io:
        close(decoded, case["eval.decoded"])
    close(loss if kind == "SimVQ" else out.losses["commitment"], io["train.loss"].sum(), "loss")
    alike(by_values, case["train.grad_x_from_quantized"], "gradient of values")
    alike(by_loss, case["train.grad_x_from_loss"], "gradient of losses")
    variables = {**case.loaded.variables, "params": by_params}
    ours = convert.save(dataclasses.replace(case.loaded, variables=variables))
    names = [key for key in io if key.startswith("train.grad_from_loss.")]
    assert names
    for key in names:
        alike(ours[key.removeprefix("train.grad_from_loss.")], io[key], key)


@pytest.mark.parametrize(
    "transform, layers",
    [
        (None, {"code_transform.weight": (6, 4)}),
        (
            "Linear(in_features=4, out_features=6, bias=True)",
            {"code_transform.weight": (6, 4), "code_transform.bias": 6},
        ),
        (
            "Sequential(\n  (0): Linear(in_features=4, out_features=5, bias=False)\n  (1): SiLU()\n"
            "  (2): Linear(in_features=5, out_features=7, bias=False)\n  (3): SiLU()\n"
            "  (4): Linear(in_features=7, out_features=6, bias=False)\n)",
            {f"code_transform.{i}.weight": s for i, s in ((0, (5, 4)), (2, (7, 5)), (4, (6, 7)))},
        ),
    ],
)
def test_other_maps_load_and_are_saved_as_they_were(transform, layers):
    tensors = {name: np.asarray(normal(*np.atleast_1d(shape))) for name, shape in layers.items()}
    tensors["frozen_codebook"] = np.asarray(normal(9, 4))
    args = {"dim": 6, "codebook_size": 9, "frozen_codebook_dim": 4, "codebook_transform": transform}
    loaded = convert.load("vector_quantize_pytorch", tensors, {"class": "SimVQ", "args": args})["model"]
    x = tensors["frozen_codebook"]
    for i, name in enumerate(sorted(n for n in tensors if n.endswith("weight"))):
        x = (x / (1 + np.exp(-x)) if i else x) @ tensors[name].T + tensors.get(
            name.replace("weight", "bias"), 0
        )
    close(jax.jit(lambda variables: loaded.module.apply(variables, method="codebook"))(loaded.variables), x)
    jax.tree.map(np.testing.assert_array_equal, convert.save(loaded), tensors)


def test_a_map_without_counterpart_is_named():
    args = {"dim": 4, "codebook_size": 8, "codebook_transform": "Sequential(\n  (0): Mamba()\n)"}
    with pytest.raises(ValueError, match="Mamba"):
        convert.load("vector_quantize_pytorch", {}, {"class": "SimVQ", "args": args})


QUANTIZERS = {
    "linear": SimVQ(codes=16, width=8),
    "mlp": SimVQ(codes=16, width=8, code_width=5, hidden=(12,), routing="straight_through"),
    "bridge": FVQ(codes=16, width=8, patch=4, hidden=8, heads=2),
}
Z = normal(4, 6, 8)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_step_moves_every_code(name):
    quantizer = QUANTIZERS[name]
    variables = filled(quantizer, Z)

    def loss(variables):
        out = quantizer.apply(variables, Z)
        return out.losses["codebook"], out.codes

    @jax.jit
    def run(variables):
        gradient, codes = jax.grad(loss, has_aux=True)(variables)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient["params"])
        book = lambda params: quantizer.apply({**variables, "params": params}, method="codebook")
        return book(moved), book(variables["params"]), codes

    after, before, codes = jax.device_get(run(variables))
    assert (np.abs(after - before).max(axis=-1) > 0).all()
    assert len(np.unique(codes)) < quantizer.codes  # some were not chosen


def test_only_the_map_is_a_parameter():
    variables = filled(QUANTIZERS["linear"], Z)
    assert list(variables["params"]) == ["map_0"] and list(variables["quantizer"]) == ["codebook"]


def test_losses_by_hand():
    quantizer = SimVQ(codes=16, width=8, commitment=0.5, codebook_weight=3.0)
    variables = filled(quantizer, Z)

    @jax.jit
    def run(z):
        out = quantizer.apply(variables, z)
        by_z = jax.jacrev(lambda z: quantizer.apply(variables, z).losses)(z)
        return out, quantizer.apply(variables, out.codes, method="decode"), by_z

    out, q, by_z = jax.device_get(run(Z))
    difference = np.asarray(Z) - q
    error = np.mean(np.square(difference))
    close(out.losses["commitment"], 0.5 * error)
    close(out.losses["codebook"], 3 * error)
    close(by_z["commitment"], 2 * 0.5 * difference / Z.size)
    assert not np.any(by_z["codebook"])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_masked_tokens_have_no_effect(name):
    quantizer = QUANTIZERS[name]
    variables = filled(quantizer, Z)
    mask = np.arange(6) < np.array([6, 4, 5, 1])[:, None]
    run = jax.jit(lambda z: quantizer.apply(variables, z, mask=jnp.asarray(mask)))
    a, b = jax.device_get((run(Z), run(jnp.where(mask[..., None], Z, 1e3))))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.any(a.values[~mask]) and not np.any(a.codes[~mask])
    assert a.statistics["counts"].sum() == mask.sum()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_code_can_be_reached(name):
    quantizer = QUANTIZERS[name]
    variables = filled(quantizer, Z)

    @jax.jit
    def run(variables):
        codebook = quantizer.apply(variables, method="codebook")
        return quantizer.apply(variables, codebook[None], method="encode")

    codes = run(variables)
    np.testing.assert_array_equal(codes[0, :, 0], np.arange(quantizer.codes))
