import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import Condition, Latents
from jaxtok.decoding.guidance import guidance_strength, guide
from jaxtok.systems.image.rar import RAR
from jaxtok.systems.image.rar_generator import SIZES, RARGenerator, from_official, sampling
from jaxtok.weights import read_tensors

TINY = RAR.tiny()

_GENERATOR = {"condition_num_classes": 5, "image_seq_len": 6, "hidden_size": 16, "num_hidden_layers": 2}
_GENERATOR |= {"num_attention_heads": 2, "intermediate_size": 24}
# How it was trained.
_GENERATOR |= {"dropout": 0.1, "attn_drop": 0.1, "use_checkpoint": False}
_GENERATOR |= {"randomness_anneal_start": 125000, "randomness_anneal_end": 187500}
# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {"model": {"model": {"vq_model": {"codebook_size": 7}, "generator": _GENERATOR}}}


@pytest.mark.slow  # parity
def test_the_official_code_gives_the_same(shared):
    path = shared("goldens/rar.safetensors")
    tensors, metadata = read_tensors(path)
    config, loaded = json.loads(metadata["config"]), convert.load("rar", path)["model"]
    model, io = (
        from_official(config),
        {k.removeprefix("io."): v for k, v in tensors.items() if k[:3] == "io."},
    )
    codes, orders = (jnp.asarray(io[key], jnp.int32) for key in ("tokens", "random_orders"))
    given = model.network().class_condition(jnp.asarray(io["classes"], jnp.int32))
    none = Condition(jnp.full(given.batch, model.classes, jnp.int32))
    vocab = model.network().vocab
    np.testing.assert_array_equal(io["condition"], vocab.range("class").start + io["classes"])
    np.testing.assert_array_equal(io["none_condition"], vocab.id("null"))

    apply = jax.jit(loaded.module.apply)
    whole = lambda condition, order=None: apply(loaded.variables, codes[..., None], condition, order)
    raster, shuffled = whole(given), whole(given, orders)
    in_order = np.take_along_axis(np.asarray(shuffled), np.asarray(orders)[..., None], axis=1)
    np.testing.assert_allclose(raster, io["logits_raster"][:, :-1], atol=1e-4)
    np.testing.assert_allclose(in_order, io["logits_random"][:, :-1], atol=1e-4)
    np.testing.assert_allclose(whole(none), io["logits_uncond"][:, :-1], atol=1e-4)
    np.testing.assert_array_equal(np.take_along_axis(codes, orders, axis=1), io["labels_random"])

    prior, params = model.prior(), loaded.variables["params"]
    method = dataclasses.replace(prior.method, condition_dropout=0.0)
    for logits, name in ((raster, "raster"), (shuffled, "random")):
        loss, _ = method.loss(lambda *_, x=logits: x, {}, Latents(codes[..., None]), given, jax.random.key(0))
        np.testing.assert_allclose(loss, io[f"loss_{name}"], atol=1e-4)

    for greedy, a in config["greedy"].items():
        official = sampling(a["randomize_temperature"], a["guidance_scale"], a["guidance_scale_pow"])
        settings = dataclasses.replace(official, temperature=0.0)
        sample = jax.jit(lambda p, s=settings: prior.sample(p, given, jax.random.key(0), settings=s).codes)
        drawn = sample(params)
        np.testing.assert_array_equal(drawn[..., 0], io[f"greedy.{greedy}.tokens"])
        logits, unconditional = (apply(loaded.variables, drawn, condition) for condition in (given, none))
        progress = np.arange(model.tokens)[:, None] / model.tokens
        schedule = (settings.guidance_schedule, settings.guidance_power)
        strength = guidance_strength(settings.guidance, progress, *schedule)
        guided = guide(logits, unconditional, strength) / official.temperature
        np.testing.assert_allclose(jax.nn.softmax(guided), io[f"greedy.{greedy}.probs"], atol=1e-4)

    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_the_published_numbers_of_parameters(shared, size):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    (row,) = [row for row in rows if row["configuration"] == f"RAR-{size}"]
    params = RARGenerator.published(size).shapes()["params"]
    parts = {
        "blocks": params["stack"],
        "embeddings": params["table"],
        "adaln_before_head": params["norm"],
        "lm_head": params["out"],
        "cls_token": params["first"],
        "pos_embed": params["positions"],
        "target_aware_pos_embed": params["targets"],
        "timesteps_embeddings": params["steps"],
    }
    assert {name: elements(part) for name, part in parts.items()} == row["parts"]
    assert elements(params) == row["parameters"]


def test_official_arguments_become_our_sizes():
    assert from_official({}) == RARGenerator.published("B")
    a = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 48}
    a |= {"image_seq_len": 10, "condition_num_classes": 7, "guidance_scale": 0.0}
    model = from_official({"model": {"vq_model": {"codebook_size": 9}, "generator": a}})
    assert (model.width, model.heads, model.layers, model.hidden) == (32, 2, 3, 48)
    assert (model.tokens, model.codebook, model.classes, model.settings.guidance) == (10, 9, 7, 0.0)
    assert (sampling(1.0, 16.0, 2.75).guidance, sampling(1.0, 1.0, 1.0).guidance) == (15.0, 0.0)
    for change, message in (
        ({"model_type": "uvit"}, "model_type='uvit' of the generator"),
        ({"num_attention_heads": 3}, "width=32 must divide by heads=3"),
    ):
        with pytest.raises(ValueError, match=message):
            from_official({"model": {"generator": {**a, **change}}})
    with pytest.raises(ValueError, match="no size 'S' of RAR; there are B, L, XL, XXL"):
        RARGenerator.published("S")
    with pytest.raises(ValueError, match="models 9 tokens, the tokenizer makes 16"):
        dataclasses.replace(TINY, generator=dataclasses.replace(TINY.generator, tokens=9))
