import copy
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import Latents
from jaxtok.decoding.guidance import NEUTRAL_STRENGTH, guidance_strength, guide
from jaxtok.decoding.unmasking import masked_after
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked, MaskedSettings
from jaxtok.priors.masked_sampling import reveal
from jaxtok.systems.image.titok_maskgit import TiTokMaskGIT, from_official
from jaxtok.weights import read_tensors

NAMES = ("titok_maskgit_bert", "titok_maskgit_uvit")

_GENERATOR = {"condition_num_classes": 5, "image_seq_len": 6, "hidden_size": 16, "num_hidden_layers": 2}
_GENERATOR |= {"num_attention_heads": 2, "intermediate_size": 24}
# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {
    form: {"model": {"vq_model": {"codebook_size": 7}, "generator": {**_GENERATOR, "model_type": form}}}
    for form in ("ViT", "UViT")
}
for count in (1, 5):
    OFFICIAL[f"UViT of {count}"] = copy.deepcopy(OFFICIAL["UViT"])
    OFFICIAL[f"UViT of {count}"]["model"]["generator"]["num_hidden_layers"] = count


def settings_of(run):
    """Ours from the arguments of the official `generate`."""
    ours = MaskedSettings.titok(
        run["num_sample_steps"],
        run["randomize_temperature"],
        run["guidance_scale"],
        run["guidance_decay"],
        run.get("guidance_scale_pow", 3.0),
    )
    return dataclasses.replace(ours, softmax_annealed=run.get("softmax_temperature_annealing", False))


class Golden:
    def __init__(self, path):
        self.model = convert.load("titok_maskgit", path)["model"]
        tensors, metadata = read_tensors(path)
        self.tensors, self.config = tensors, json.loads(metadata["config"])
        self.io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
        self.prior = Prior(self.model.module, Masked(self.model.module.space, weights="batch"))
        self.labels = jnp.asarray(self.io["classes"], jnp.int32)
        self.condition = self.model.module.class_condition(self.labels)
        self.params = self.model.variables["params"]
        self.mask_id = self.model.module.vocab.id("mask")
        self.apply = jax.jit(self.prior.apply)

    def logits(self, ids, condition):
        """Of official ids [B, N], where the mask is an id."""
        masked = ids == self.mask_id
        return self.apply(
            self.params, np.where(masked, 0, ids)[..., None].astype(np.int32), condition, masked
        )


@pytest.fixture(scope="module", params=NAMES)
def golden(request, shared):
    return Golden(shared(f"goldens/{request.param}.safetensors"))


@pytest.mark.slow  # parity: two compilations per file
def test_the_official_networks_and_losses_give_the_same(golden):
    io, method = golden.io, golden.prior.method
    ids = io["masked_tokens"]
    conditional = golden.logits(ids, golden.condition)
    np.testing.assert_allclose(conditional, io["logits_cond"], atol=1e-4)
    unconditional = golden.logits(ids, golden.condition.unconditional())
    np.testing.assert_allclose(unconditional, io["logits_uncond"], atol=1e-4)
    masked = method.draw_mask(jnp.asarray(io["masking.timesteps"]), jnp.asarray(io["masking.order_uniforms"]))
    np.testing.assert_array_equal(masked, io["masks"])
    latents = Latents(codes=jnp.asarray(io["tokens"][..., None], jnp.int32))
    loss, _ = method.weighted_loss(jnp.asarray(io["logits_cond"]), latents, masked)
    np.testing.assert_allclose(loss, io["mlm_loss"], atol=1e-5)


@pytest.mark.slow  # parity: four compilations per file
def test_whole_official_runs_without_noise_draw_the_same_tokens(golden):
    for name, run in golden.config["generate"].items():
        if run["randomize_temperature"]:
            continue
        sample = jax.jit(
            lambda params, key, run=run: (
                golden.prior.sample(params, golden.condition, key, settings=settings_of(run)).codes
            )
        )
        codes = sample(golden.params, jax.random.key(0))
        np.testing.assert_array_equal(codes[..., 0], golden.io[f"generate.{name}.tokens"], err_msg=name)


@pytest.mark.slow  # parity
def test_every_step_of_official_runs_is_the_same_given_their_noise(golden):
    space = golden.prior.space
    for name, run in golden.config["generate"].items():
        settings, io = settings_of(run), golden.io
        inputs, steps = io[f"generate.{name}.step_inputs"], run["num_sample_steps"]
        for step in range(steps):
            noise = [np.zeros((*inputs.shape[1:], space.size)), np.zeros(inputs.shape[1:])]
            if f"generate.{name}.uniform.{2 * step}" in io:
                uniforms = [io[f"generate.{name}.uniform.{2 * step + i}"] for i in (0, 1)]
                noise = [-np.log(np.maximum(-np.log(np.maximum(u, 1e-20)), 1e-20)) for u in uniforms]
            ids = inputs[step]
            strength = guidance_strength(
                settings.guidance,
                step / steps,
                settings.guidance_schedule,
                settings.guidance_power,
                NEUTRAL_STRENGTH[settings.guidance_rule],
            )
            logits = guide(
                golden.logits(ids, golden.condition),
                golden.logits(ids, golden.condition.unconditional()),
                strength,
                settings.guidance_rule,
            )
            known = ids != golden.mask_id
            count = masked_after(settings.schedule, steps, ids.shape[1])[step, ids.shape[1]]
            codes, known = reveal(
                logits,
                jnp.asarray(np.where(known, ids, 0)[..., None], jnp.int32),
                jnp.asarray(known),
                jnp.full(len(ids), count),
                space,
                settings,
                (step + 1) / steps,
                [jnp.asarray(noise[0], jnp.float32)],
                jnp.asarray(noise[1], jnp.float32),
            )
            expected = inputs[step + 1] if step + 1 < steps else io[f"generate.{name}.tokens"]
            found = np.where(known, codes[..., 0], golden.mask_id)
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {step}")


def test_official_weights_come_back_as_they_were(golden):
    saved = convert.save(golden.model)
    own = {key: value for key, value in golden.tensors.items() if key.startswith("model.")}
    assert saved.keys() == own.keys()
    for key, value in own.items():
        np.testing.assert_array_equal(saved[key], value, err_msg=key)
    # A file of the generator alone has no prefix, and a BERT's own names begin like one.
    bare = {key.removeprefix("model."): value for key, value in own.items()}
    loaded = convert.load("titok_maskgit", bare, golden.config)["model"]
    assert convert.save(loaded).keys() == bare.keys()


def test_released_sizes_have_the_official_numbers_of_parameters(shared):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    rows = [row for row in rows if row["system"] == "titok" and row["component"] == "MaskGIT generator"]
    ours = {"L-32": TiTokMaskGIT.l32(), "B-64": TiTokMaskGIT.b64(), "S-128": TiTokMaskGIT.s128()}
    assert len(rows) == 3
    for row in rows:
        model = ours.pop(row["configuration"].split()[-1])
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.shapes()))
        assert count == row["parameters"], row["configuration"]


def test_official_arguments_become_our_sizes():
    assert from_official({}) == TiTokMaskGIT.l32()
    generator = {
        "model_type": "UViT",
        "condition_num_classes": 5,
        "image_seq_len": 16,
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "intermediate_size": 96,
    }
    model = from_official({"model": {"vq_model": {"codebook_size": 24}, "generator": generator}})
    network = model.network()
    assert (model.form, model.tokens, model.codebook, model.classes) == ("unet", 16, 24, 5)
    assert (network.layers, network.heads, network.head_dim, network.hidden) == (4, 6, 8, 96)
    assert model.settings == TiTokMaskGIT.l32().settings
    sampler = {"num_steps": 64, "randomize_temperature": 2.8, "guidance_scale": 6.9}
    sampler |= {"guidance_decay": "power-cosine", "softmax_temperature_annealing": True}
    settings = from_official({"generator": {**generator, **sampler}}).settings
    assert settings == dataclasses.replace(TiTokMaskGIT.s128().settings, softmax_annealed=True)
    misspelt = {"model": {"vq_model": {"codebok_size": 24}, "generator": generator}}
    with pytest.raises(ValueError, match=r"model\.vq_model\.codebok_size \(did you mean codebook_size\?\)"):
        convert.load("titok_maskgit", {}, misspelt)
    with pytest.raises(ValueError, match="model_type='GPT'"):
        from_official({"generator": {"model_type": "GPT"}})
    with pytest.raises(ValueError, match="width=768 must divide by heads=7"):
        TiTokMaskGIT(heads=7)


@pytest.mark.parametrize(("layers", "half"), [(1, 0), (2, 1), (5, 2)])
def test_an_odd_number_of_layers_of_a_u_vit_is_halved_as_officially(layers, half):
    config = copy.deepcopy(OFFICIAL["UViT"])
    config["model"]["generator"]["num_hidden_layers"] = layers
    component = TiTokMaskGIT.official_components(config)["model"]
    names = {name for entry in component.table.entries for name in entry.names}
    blocks = {name.removesuffix(".norm1.weight") for name in names if name.endswith("norm1.weight")}
    expected = {f"{side}_blocks.{i}" for side in ("in", "out") for i in range(half)}
    assert blocks == expected | {"mid_block"}
