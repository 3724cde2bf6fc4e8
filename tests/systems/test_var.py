import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import Latents
from jaxtok.decoding.guidance import guide
from jaxtok.priors.contract import Prior
from jaxtok.priors.next_scale import NextScaleSettings
from jaxtok.systems.image.var import SIZES, VAR
from jaxtok.systems.image.var_official import from_official, official_components
from jaxtok.weights import read_tensors
from tests.filled import draw_like

TINY = VAR.tiny()


def channels_last(x):
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def parts_of(tensors):
    return {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}


@pytest.mark.slow  # parity
@pytest.mark.parametrize("name", ["var_vqvae", "var_vqvae_znorm"])
def test_the_official_tokenizer_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors, _ = read_tensors(path)
    loaded, io = convert.load("var", path)["model"], parts_of(tensors)
    module, images, scales = loaded.module, channels_last(io["image"]), loaded.module.layout.scales

    @jax.jit
    def run(variables):
        apply = lambda *args, method: module.apply(variables, *args, method=method)
        codes = apply(images, method="encode").codes
        first = jnp.arange(len(scales))[:, None] >= module.layout.levels  # the first 1, 2, ... scales
        mask = jnp.repeat(first, len(images), axis=0)[..., None]
        shown = apply(Latents(jnp.tile(codes, (len(scales), 1, 1)), mask=mask), method="decode")
        out = module.apply(variables, images, train=True)
        losses = sum(out.quantized.losses.values())
        return codes, shown.reshape(len(scales), *images.shape), out.x_hat, losses

    codes, shown, whole, losses = run(loaded.variables)
    for i in range(len(scales)):
        np.testing.assert_array_equal(codes[:, module.layout.scale(i), 0], io[f"codes.{i}"])
        for key in (f"reconstruction.{i}", f"decoded_from_codes.{i}"):
            np.testing.assert_allclose(jnp.clip(shown[i], -1, 1), channels_last(io[key]), atol=1e-4)
    np.testing.assert_allclose(whole, channels_last(io["reconstruction_unclamped"]), atol=1e-4)
    np.testing.assert_allclose(losses, io["train.loss"], atol=1e-4)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


@pytest.mark.slow  # parity
@pytest.mark.parametrize("name", ["var_transformer", "var_transformer_l2"])
def test_the_official_transformer_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors, metadata = read_tensors(path)
    loaded, io = convert.load("var", path), parts_of(tensors)
    model = from_official(json.loads(metadata["config"]))
    rule = dataclasses.replace(model.next_scale().rule, condition_dropout=0.0)
    prior = Prior(loaded["model"].module, rule)
    params, vae = loaded["model"].variables["params"], loaded["vae"].variables
    codes = jnp.asarray(io["codes"][..., None], jnp.int32)
    condition = model.class_condition(jnp.asarray(io["labels"], jnp.int32))
    strengths = {"greedy": 1.5, "greedy_cfg4": 4.0}

    @jax.jit
    def run(params, vae):
        codec, key = model.codec(vae), jax.random.key(0)
        drawn = [
            prior.sample(params, condition, key, settings=NextScaleSettings(w, top_k=1), codec=codec).codes
            for w in strengths.values()
        ]
        every = jnp.concatenate([codes, *drawn])
        inputs = codec.next_inputs(every)
        rows = jnp.tile(condition.features, 3)
        told, untold = (
            prior.apply(params, every, c, inputs).reshape(3, *codes.shape[:2], -1)
            for c in (model.class_condition(rows), model.class_condition(rows).unconditional())
        )
        found = {
            "var_input": inputs[: codes.shape[0]],
            "logits": told[0],
            "logits_uncond": untold[0],
            "cross_entropy": prior.loss(params, Latents(codes), condition, key, codec)[0],
        }
        images = jnp.clip(model.decode(vae, every), -1, 1)
        images = images.reshape(3, codes.shape[0], *images.shape[1:])
        for i, (name, strength) in enumerate(strengths.items(), start=1):
            course = jnp.asarray(strength * model.layout.levels[:, None] / model.layout.levels[-1])
            found[f"{name}.codes"] = drawn[i - 1][..., 0]
            found[f"{name}.logits"] = guide(told[i], untold[i], course, "c+s(c-u)")
            found[f"{name}.image"] = jnp.moveaxis((images[i] + 1) / 2, -1, 1)
        return found

    found = run(params, vae)
    assert set(found) == set(io) - {"codes", "labels"}
    for key, value in found.items():
        np.testing.assert_allclose(value, io[key], atol=0 if "codes" in key else 1e-4, err_msg=key)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if not key.startswith("io.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)
