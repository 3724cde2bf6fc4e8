import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import CodeSpace
from jaxtok.quantize.latent import (
    LatentQuantizer,
    analytic_index,
    analytic_values,
    first_values,
    nearest_value,
    values_at,
)
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.weights import read_tensors
from tests.filled import filled, normal
from tests.quantize.golden import Recordings, alike, cases, close, with_gradients

NAMES = ["default_values", "no_projection_image", "fixed_values", "multi_codebook"]


@pytest.fixture(scope="module")
def files(shared):
    return Recordings(shared("goldens/vq_zoo_LatentQuantize.safetensors"))


def features(x):
    """The class takes channels first, whatever its arguments."""
    return np.moveaxis(np.asarray(x), 1, -1).reshape(x.shape[0], -1, x.shape[1])


@pytest.mark.parametrize("name", cases(NAMES, ["multi_codebook"]))
def test_it_does_what_the_official_class_does(files, name):
    case = files[name]
    module, io = case.loaded.module, case.io
    params, levels = case.loaded.variables.get("params", {}), case.loaded.module.levels
    x = jnp.asarray(features(io["x"]))

    @jax.jit
    def run(params, x):
        apply = lambda *args, **options: module.apply({"params": params}, *args, **options)
        train = lambda params, x: module.apply({"params": params}, x, train=True)
        out, loss, gradients = with_gradients(train, features(io["train.cotangent"]), params, x)
        latents = apply(out.codes, method=lambda m, c: values_at(m.values(), c))
        index = jnp.stack([analytic_index(v, levels) for v in jnp.split(latents, module.groups, -1)], -1)
        grid = analytic_values(index, levels).reshape(*x.shape[:2], -1)
        decoded = apply(grid, method=lambda m, v: m._outer(v))
        every = analytic_values(jnp.arange(CodeSpace(levels).size), levels)
        return out.values, index, decoded, every, loss, gradients

    values, index, decoded, every, loss, gradients = jax.device_get(run(params, x))
    close(values, features(io["train.quantized"]), "values")
    np.testing.assert_array_equal(index, io["train.indices"].reshape(index.shape))
    close(decoded, features(io["eval.decoded"]), "decoded on the first grid")
    close(every, io["const.implicit_codebook"], "the grid")
    close(loss, io["train.loss"], "loss")
    for kind, (by_params, by_x) in gradients.items():
        alike(by_x, features(io[f"train.grad_x_from_{kind}"]), f"gradient of {kind}")
        variables = {"params": by_params}
        saved = convert.save(dataclasses.replace(case.loaded, variables=variables)) if params else {}
        for key, value in io.items():
            if key.startswith(f"train.grad_from_{kind}."):
                alike(saved[key.removeprefix(f"train.grad_from_{kind}.")], value, key)


def test_all_recorded_configurations_are_tested(shared):
    _, metadata = read_tensors(shared("goldens/vq_zoo_LatentQuantize.safetensors"))
    assert set(json.loads(metadata["config"])) == set(NAMES)


@pytest.fixture(scope="module")
def paper(shared):
    tensors, _ = read_tensors(shared("goldens/qlae.safetensors"))
    return {name.removeprefix("io."): jnp.asarray(t) for name, t in tensors.items() if name.startswith("io.")}


def test_recorded_latents_of_the_paper(paper):
    quantizer = LatentQuantizer((10,) * 6, commitment=0.3, values_weight=0.7)  # as recorded
    params = {f"values_{i}": paper[f"scalar.values{i}"] for i in range(6)}
    x = paper["scalar.x"][:, None]

    def loss(params, x):
        out = quantizer.apply({"params": params}, x)
        error = jnp.mean(jnp.square(out.values[:, 0] - paper["scalar.target"]))
        return sum(out.losses.values()) + error, out

    (by_params, by_x), out = jax.device_get(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x))
    np.testing.assert_array_equal(out.codes[:, 0], paper["scalar.indices"])
    close(out.values[:, 0], paper["scalar.quantised"])
    close(out.losses["commitment"], 0.3 * paper["scalar.commitment_loss"].mean())
    close(out.losses["values"], 0.7 * paper["scalar.quantisation_loss"].mean())
    alike(by_x[:, 0], paper["scalar.grad_x"])
    for i in range(6):
        alike(by_params[f"values_{i}"], paper[f"scalar.grad_values{i}"])


def test_recorded_ablations_of_the_paper(paper):
    shared_values = LatentQuantizer((8,) * 6, share_values=True)
    params = {"params": {"values_0": paper["global.values"]}}
    codes = paper["global.indices"][:, None]
    decode = jax.jit(lambda params, codes: shared_values.apply(params, codes, method="decode"))
    close(decode(params, codes)[:, 0], paper["global.quantised"])
    close(first_values(8, "ends"), paper["global.values"])
    vectors = VectorQuantizer(codes=20, width=12, slots=3, share_codebook=True)
    params = {"params": {"codebook": paper["vector.embeddings"]}}
    out = jax.device_get(jax.jit(vectors.apply)(params, paper["vector.x"][:, None]))
    np.testing.assert_array_equal(out.codes[:, 0], paper["vector.indices"])
    close(out.values[:, 0], paper["vector.quantised"])


Z = normal(3, 4, 5)
QUANTIZER = LatentQuantizer((4, 7, 2), width=5, commitment=0.5, values_weight=2.0)
VARIABLES = filled(QUANTIZER, Z)


def test_losses_by_hand():
    def loss(variables):
        out = QUANTIZER.apply(variables, Z)
        return out.losses["values"], out

    gradient, out = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(VARIABLES))
    gradient, p = gradient["params"], VARIABLES["params"]
    x = np.asarray(Z) @ np.asarray(p["inward"]["kernel"]) + np.asarray(p["inward"]["bias"])
    sets = [np.asarray(p[f"values_{i}"]) for i in range(3)]
    q = np.stack([v[np.argmin(np.abs(x[..., i, None] - v), -1)] for i, v in enumerate(sets)], -1)
    close(out.losses["commitment"], 0.5 * np.mean((x - q) ** 2))
    close(out.losses["values"], 2.0 * np.mean((x - q) ** 2))
    assert not np.any(gradient["inward"]["kernel"])
    expected = [np.sum(2 * 2.0 * (q - x)[..., 0] * (q[..., 0] == v)) / x.size for v in sets[0]]
    close(gradient["values_0"], np.array(expected))


def test_quantizing_twice_changes_nothing_and_all_codes_are_reached():
    quantizer = LatentQuantizer((4, 7, 2))
    variables = filled(quantizer, normal(1, 1, 3))
    codes = jnp.asarray(CodeSpace((4, 7, 2)).split(np.arange(56)))[None]

    @jax.jit
    def run(variables, codes):
        values = quantizer.apply(variables, codes, method="decode")
        return values, quantizer.apply(variables, values)

    values, out = jax.device_get(run(variables, codes))
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.values, values)
    np.testing.assert_array_equal(out.statistics["counts"], np.ones(56))


def test_codes_stay_right_when_values_have_moved():
    values = jnp.asarray([[0.4, -0.1, 0.0, 0.39]])  # out of order, not even
    x = jnp.asarray([[0.41], [0.38], [-0.3]])
    np.testing.assert_array_equal(nearest_value(x, values), [[0], [3], [1]])
    assert nearest_value(jnp.asarray([[0.25]]), jnp.asarray([[0.0, 0.5]])) == 0  # the first of equals


@pytest.mark.parametrize("levels", [(5, 5, 8), (4, 7, 6), (3, 2), (9,)])
def test_the_analytic_index_is_the_joint_one_on_the_first_grid(levels):
    quantizer = LatentQuantizer(levels, spread="grid")
    index = np.arange(CodeSpace(levels).size)

    @jax.jit
    def run(codes):
        variables = quantizer.init(jax.random.key(0), jnp.zeros((1, 1, len(levels))))
        values = quantizer.apply(variables, codes[None], method="decode")[0]
        # A little above the grid: the official class truncates, and a value just below gets another index.
        return values, analytic_values(index, levels), analytic_index(values + 1e-6, levels)

    values, analytic, again = run(CodeSpace(levels).split(index))
    close(analytic, values)
    np.testing.assert_array_equal(again, index)


def test_masked_tokens_have_no_effect():
    mask = jnp.arange(4) < jnp.array([4, 2, 1])[:, None]
    run = jax.jit(jax.value_and_grad(lambda z: sum(QUANTIZER.apply(VARIABLES, z, mask=mask).losses.values())))
    jax.tree.map(np.testing.assert_array_equal, run(Z), run(jnp.where(mask[..., None], Z, 7.0)))


def test_shared_values_need_equal_numbers():
    with pytest.raises(ValueError, match="share_values"):
        LatentQuantizer((3, 4), share_values=True).init(jax.random.key(0), normal(1, 1, 2))
