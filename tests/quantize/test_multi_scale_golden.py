"""Parity with the recorded `HierarchicalVQ` and VAR quantizer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.revival import dead_codes, replace_codes
from jaxtok.systems.quantizers.multi_scale import var_component
from jaxtok.weights import load_table, read_tensors
from tests.quantize.golden import Recordings, cases, close, with_gradients

QUICK = ["level_phi", "var_vqvae_znorm"]


def grid(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("name", cases(["shared_phi", "level_phi"], QUICK))
def test_evaluation_of_hierarchical_vq(shared, name):
    case = Recordings(shared("goldens/vq_zoo_HierarchicalVQ.safetensors"))[name]
    module, variables, io = case.loaded.module, case.loaded.variables, case.io

    @jax.jit
    def run(variables, z):
        out = module.apply(variables, z)
        return out, module.apply(variables, out.codes, method="decode")

    out, decoded = run(variables, grid(io["x"]))
    for i in range(module.depths):
        theirs = io[f"eval.indices.{i}"].reshape(out.codes.shape[0], -1)
        np.testing.assert_array_equal(out.codes[:, module.layout.scale(i), 0], theirs)
    close(out.values, grid(io["eval.quantized"]))
    close(decoded, grid(io["eval.decoded"]))


@pytest.mark.parametrize("name", cases(["shared_phi", "level_phi"], QUICK))
def test_a_training_step_of_hierarchical_vq(shared, name):
    """Upstream moves its codebook between the scales of one pass, so that every scale meets another one: here
    each gets a codebook of its own, with the state that the official one had at that moment.
    """
    case = Recordings(shared("goldens/vq_zoo_HierarchicalVQ.safetensors"))[name]
    module, params, io = case.loaded.module, case.loaded.variables["params"], case.io
    book, scales, key = module.quantizers[0], module.depths, jax.random.key(0)
    state = case.loaded.variables["quantizer"]["quantizers_0"]
    apart = module.clone(quantizers=tuple(book.clone() for _ in range(scales)))
    states = {f"quantizers_{i}": state for i in range(scales)}

    @jax.jit
    def run(params, states, z):
        def train(params, z):
            keys = jax.random.split(key, z.shape[0])
            return apart.apply({"params": params, "quantizer": states}, z, train=True, key=keys)

        return with_gradients(train, grid(io["train.cotangent"]), params, z)

    @jax.jit
    def step(state, statistics, sampled):
        still = {name: statistics[name] for name in ("counts", "sums")}  # without a sample of our own
        state = book.update(state, still, key)
        dead, count = dead_codes(state["counts"], book.revive_below, book.revive_unit)
        places = jnp.flatnonzero(dead, size=len(sampled), fill_value=dead.size)
        vectors = jnp.zeros_like(state["codebook"]).at[places].set(sampled, mode="drop")
        return replace_codes(state, dead, vectors, count), jnp.sum(dead)

    z = grid(io["x"])
    for i in range(scales):
        seen = run(params, states, z)[0].statistics["scales"][i]
        sampled = io[f"train.sampled.{i}"][0]
        state, dead = step(states[f"quantizers_{i}"], seen, sampled)
        assert dead == len(sampled)
        if i + 1 < scales:
            states = {**states, f"quantizers_{i + 1}": state}
    for ours, theirs in (("codebook", "embed"), ("counts", "cluster_size"), ("sums", "embed_avg")):
        close(state[ours], case.after[f"vq._codebook.{theirs}"][0], f"{theirs} after the step")

    out, loss, gradients = jax.device_get(run(params, states, z))
    for i in range(scales):
        theirs = io[f"train.indices.{i}"].reshape(out.codes.shape[0], -1)
        np.testing.assert_array_equal(out.codes[:, module.layout.scale(i), 0], theirs)
    close(out.values, grid(io["train.quantized"]), "values")
    close(loss, io["train.loss"], "loss")
    for what, (by_params, by_z) in gradients.items():
        close(by_z, grid(io[f"train.grad_x_from_{what}"]), f"gradient of the {what}")
        names = ["phi_shared"] if name == "shared_phi" else ["phi_levels.0", "phi_levels.1"]
        for i, stem in enumerate(names):
            mine, theirs = by_params["pyramid"][f"phi_{i}"], f"train.grad_from_{what}.{stem}.conv."
            close(mine["kernel"], io[f"{theirs}weight"].transpose(2, 3, 1, 0), f"{stem} of the {what}")
            close(mine["bias"], io[f"{theirs}bias"], f"bias of {stem} of the {what}")


@pytest.mark.parametrize("name", cases(["var_vqvae", "var_vqvae_znorm"], QUICK))
def test_the_quantizer_of_var(shared, name):
    tensors, metadata = read_tensors(shared(f"goldens/{name}.safetensors"))
    io = {k.removeprefix("io."): v for k, v in tensors.items() if k.startswith("io.")}
    own = {
        k.removeprefix("model.quantize."): v for k, v in tensors.items() if k.startswith("model.quantize.")
    }
    part = var_component(json.loads(metadata["config"]))
    params, _ = load_table(part.table, own, part.shapes["params"])
    module, params = part.module, jax.tree.map(jnp.asarray, params)

    @jax.jit
    def run(params, z):
        codes = module.apply({"params": params}, z, method="encode")
        apply = lambda method: module.apply({"params": params}, codes, method=method)
        evaluate = lambda params, z: module.apply({"params": params}, z)
        found = with_gradients(evaluate, grid(io["train.cotangent"]), params, z)
        out, loss, gradients = found
        gradients["quantized"] = gradients["quantized"][1]
        return codes, apply("partial_sums"), apply("next_inputs"), out, loss, gradients

    found = run(params, grid(io["latents"]))
    codes, sums, inputs, out, loss, gradients = jax.device_get(found)
    for i in range(module.depths):
        np.testing.assert_array_equal(codes[:, module.layout.scale(i), 0], io[f"codes.{i}"])
        close(sums[i], grid(io[f"f_hat.{i}"]), f"sum of {i + 1} scales")
    close(inputs, io["var_input"], "inputs of the prior")
    close(out.values, grid(io["train.f_hat"]), "values")
    close(loss, io["train.loss"], "loss")
    by_params, by_z = gradients["loss"]
    close(by_z, grid(io["train.grad_latents_from_loss"]), "gradient of the loss")
    theirs = io["train.grad_from_loss.embedding.weight"]
    close(by_params["quantizers_0"]["codebook"], theirs, "gradient of the codebook")
    for i in range(module.pyramid.phis):
        theirs = io[f"train.grad_from_loss.quant_resi.qresi_ls.{i}.weight"].transpose(2, 3, 1, 0)
        close(by_params["pyramid"][f"phi_{i}"]["kernel"], theirs, f"gradient of phi {i}")
    close(gradients["quantized"], grid(io["train.grad_latents_from_f_hat"]), "gradient of values")


@pytest.mark.parametrize("name", cases(["ms_plain", "ms_znorm"], QUICK))
def test_the_multi_scale_quantizer_of_xq_gan(shared, name):
    """VAR's, with scales dropped in the first half of the batch and losses without weight."""
    tensors, metadata = read_tensors(shared("goldens/robusttok.safetensors"))
    config = dict(json.loads(metadata["config"])[name])
    part = var_component({"args": {**config, "z_channels": config.pop("Cvae")}})
    starts = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    io = starts(f"io.{name}.")
    params, _ = load_table(part.table, starts(f"{name}."), part.shapes["params"])
    module, variables, z = part.module, {"params": jax.tree.map(jnp.asarray, params)}, grid(io["f"])

    kept = jnp.asarray([*io["dropout"][:2], module.depths, module.depths])

    @jax.jit
    def run(variables, z):
        out = module.apply(variables, z)
        apply = lambda method: module.apply(variables, out.codes, method=method)
        dropped = module.apply(variables, z, train=True, kept=kept)
        return out, apply("partial_sums"), apply("next_inputs"), dropped

    out, sums, inputs, dropped = jax.device_get(run(variables, z))
    np.testing.assert_array_equal(out.codes[..., 0], io["codes"])
    close(out.values, grid(io["eval_fhat"]), "values")
    close(sums, np.moveaxis(io["fhat_per_scale"], 2, -1), "sums")
    close(inputs, io["var_input"], "inputs of the prior")
    close(out.losses["codebook"], io["eval_vq_loss"], "loss")
    close(out.losses["commitment"], module.commitment * io["eval_commit_loss"], "commitment")
    close(dropped.values, grid(io["train_fhat"]), "values in training")
    # Theirs is the mean over the examples that keep a scale, so each scale alone is as large as theirs.
    error = np.mean(np.square(np.asarray(z) - sums), axis=(2, 3, 4))
    there = np.arange(module.depths)[:, None] < np.asarray(kept)
    close(np.mean(np.sum(error * there, 1) / np.sum(there, 1)), io["train_vq_loss"], "their loss")
    close(dropped.losses["codebook"], np.mean(error * there), "our loss")
