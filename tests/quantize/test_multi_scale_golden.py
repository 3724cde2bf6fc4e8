"""Parity with the recorded `HierarchicalVQ` and VAR quantizer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.systems.quantizers.multi_scale import var_component
from jaxtok.weights import load_table, read_tensors
from tests.quantize.golden import close, recordings


def grid(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("name", ["shared_phi", "level_phi"])
def test_evaluation_of_hierarchical_vq(shared, name):
    case = recordings(shared("goldens/vq_zoo_HierarchicalVQ.safetensors"))[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io
    out = module.apply(variables, grid(io["x"]))
    for i in range(module.scales):
        theirs = io[f"eval.indices.{i}"].reshape(out.codes.shape[0], -1)
        np.testing.assert_array_equal(out.codes[:, module.layout.scale(i), 0], theirs)
    close(out.values, grid(io["eval.quantized"]))
    close(module.apply(variables, out.codes, method="decode"), grid(io["eval.decoded"]))


@pytest.mark.parametrize("name", ["var_vqvae", "var_vqvae_znorm"])
def test_the_quantizer_of_var(shared, name):
    tensors, metadata = read_tensors(shared(f"goldens/{name}.safetensors"))
    io = {k.removeprefix("io."): v for k, v in tensors.items() if k.startswith("io.")}
    own = {
        k.removeprefix("model.quantize."): v for k, v in tensors.items() if k.startswith("model.quantize.")
    }
    part = var_component(json.loads(metadata["config"]))
    params, _ = load_table(part.table, own, part.shapes["params"])
    module, variables = part.module, {"params": jax.tree.map(jnp.asarray, params)}
    z = grid(io["latents"])
    codes = module.apply(variables, z, method="encode")
    sums = module.apply(variables, codes, method="partial_sums")
    for i in range(module.scales):
        np.testing.assert_array_equal(codes[:, module.layout.scale(i), 0], io[f"codes.{i}"])
        close(sums[i], grid(io[f"f_hat.{i}"]), f"sum of {i + 1} scales")
        prefix = codes[:, : module.layout.scale(i).stop]
        np.testing.assert_array_equal(module.apply(variables, prefix, method="decode"), sums[i])
    close(module.apply(variables, codes, method="next_inputs"), io["var_input"], "inputs of the prior")
    out = module.apply(variables, z)
    close(out.values, grid(io["train.f_hat"]), "values")
    loss = lambda params, z: sum(module.apply({"params": params}, z).losses.values(), jnp.float32(0))
    close(loss(variables["params"], z), io["train.loss"], "loss")
    gradients = jax.grad(loss, argnums=(0, 1))(variables["params"], z)
    close(gradients[1], grid(io["train.grad_latents_from_loss"]), "gradient of the loss")
    close(
        gradients[0]["quantizers_0"]["codebook"],
        io["train.grad_from_loss.embedding.weight"],
        "gradient of the codebook",
    )
    for i in range(module.pyramid.phis):
        theirs = io[f"train.grad_from_loss.quant_resi.qresi_ls.{i}.weight"].transpose(2, 3, 1, 0)
        close(gradients[0]["pyramid"][f"phi_{i}"]["kernel"], theirs, f"gradient of phi {i}")
    weigh = lambda z: jnp.vdot(module.apply(variables, z).values, grid(io["train.cotangent"]))
    close(jax.grad(weigh)(z), grid(io["train.grad_latents_from_f_hat"]), "gradient of values")
