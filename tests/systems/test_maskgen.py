import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtok import convert
from jaxtok.codes import Latents
from jaxtok.decoding.diffusion import GaussianDiffusion
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.priors.masked import MaskedSettings
from jaxtok.priors.masked_values import MaskedValueSettings
from jaxtok.run.trained import Trained
from jaxtok.systems.image.maskgen import SIZES, MaskGen
from jaxtok.systems.image.maskgen_generator import MaskGenerator, MaskGenText
from jaxtok.systems.image.maskgen_table import from_official
from jaxtok.weights import save_table
from tests.filled import draw_like, normal

SMALL = {
    "vq_model": {"num_latent_tokens": 5, "codebook_size": 11, "text_context_length": 4, "text_embed_dim": 6},
    "maskgen": {
        "decoder_embed_dim": 16,
        "decoder_depth": 3,
        "decoder_num_heads": 2,
        "micro_condition_embed_dim": 8,
        "condition_num_classes": 3,
    },
}
CODES = {"model": SMALL}
VALUES = {
    "model": {**SMALL, "vq_model": {**SMALL["vq_model"], "quantize_mode": "vae", "token_size": 3}},
    "losses": {"diffloss_d": 2, "diffloss_w": 12},
}
# For `test_every_system.py`.
ONE_BLOCK = {**SMALL, "maskgen": {**SMALL["maskgen"], "decoder_depth": 1, "micro_condition": False}}
OFFICIAL = {"codes": CODES, "values": VALUES, "one block, no score": {"model": ONE_BLOCK}}


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module", params=[CODES, VALUES], ids=["codes", "values"])
def official(request):
    """A state dict in the official layout, and its configuration."""
    model = from_official(request.param)
    table = MaskGen.official_components(request.param)["model"].table
    state = save_table(table, jax.tree.map(np.asarray, draw_like(model.shapes()["params"])), {})
    if model.kind == "vq":
        state["lm_head.weight"] = state["embeddings.weight"]
    return model, state, request.param


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_the_official_numbers_of_parameters(shared, name):
    kind, size = name.upper().split("-")
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    (row,) = [row for row in rows if row["configuration"] == f"MaskGen-{size} {kind}"]
    model = MaskGen.published(name)
    params, backbone = model.generator.shapes()["params"], None
    backbone = params.pop("backbone")
    found = {
        "text": elements(backbone["context"]),
        "vector": elements(backbone["vector"]),
        "blocks": elements((backbone["stack"], backbone["last"])),
        "norm": elements(backbone["norm"]),
        **{part: elements(tree) for part, tree in params.items()},
    }
    names = {
        "text": ("text_embed_proj", "text_emb"),
        "vector": ("cond_pooled_proj", "text_pooled_emb"),
        "blocks": ("blocks", "decoder_blocks"),
        "table": ("embeddings", ""),
        "positions": ("pos_embed", "decoder_pos_embed_learned"),
        "embed": ("", "z_proj"),
        "mask": ("", "mask_token"),
        "places": ("", "diffusion_pos_embed_learned"),
        "denoiser": ("", "diffloss"),
    }
    names["norm"] = ("norm", "decoder_norm")
    continuous = kind == "KL"
    if continuous:  # two norms, whose names ours are not
        found["z_norm"] = 2 * model.generator.width
        found["norm"] = elements(backbone["norm"])
        names["z_norm"] = ("", "z_proj_ln")
    parts = {name: count for name, count in row["parts"].items() if name != "lm_head"}  # the table once more
    assert {names[part][continuous]: count for part, count in found.items()} == parts
    assert elements((params, backbone)) == row["parameters"]


def test_a_head_that_is_the_table_comes_back(official):
    """Codes only: there the official state dict has the table twice."""
    model, state, config = official
    assert ("lm_head.weight" in state) == (model.kind == "vq")
    saved = convert.save(convert.load("maskgen", state, config))
    assert saved.keys() == {f"model.{name}" for name in state} or saved.keys() == state.keys()
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, state[name.removeprefix("model.")], err_msg=name)


def conditions(model, rows):
    rng = np.random.default_rng(1)
    text, pooled = rng.standard_normal((rows, 4, 6)), rng.standard_normal((rows, 6))
    as_arrays = [jnp.asarray(x, jnp.float32) for x in (text, pooled)]
    condition = model.condition(*as_arrays)
    condition.features["score"] = jnp.asarray([6.5, 4.25, 5.0][:rows], jnp.float32)
    return condition, text, pooled, np.asarray(condition.features["score"], np.float64)


# -- the sheet's equations once more, in float64, from tensors by their official names --


def linear(w, name, x):
    return x @ np.asarray(w[f"{name}.weight"], np.float64).T + np.asarray(w[f"{name}.bias"], np.float64)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def vectors(w, name, c, count):
    return np.split(linear(w, name, silu(c))[:, None], count, axis=-1)


def heads_of(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def joint_block(w, name, x, text, c, heads, last):
    shift, scale, gate, shift2, scale2, gate2 = vectors(w, f"{name}.norm1.linear", c, 6)
    h = layer_norm(x) * (1 + scale) + shift
    if last:
        text_scale, text_shift = vectors(w, f"{name}.norm1_context.linear", c, 2)
    else:
        text_shift, text_scale, *text_rest = vectors(w, f"{name}.norm1_context.linear", c, 6)
    g = layer_norm(text) * (1 + text_scale) + text_shift
    q, k, v = (
        np.concatenate(
            [
                heads_of(linear(w, f"{name}.attn.to_{a}", h), heads),
                heads_of(linear(w, f"{name}.attn.add_{a}_proj", g), heads),
            ],
            axis=2,
        )
        for a in "qkv"
    )
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    out = out.transpose(0, 2, 1, 3).reshape(x.shape[0], -1, x.shape[-1])
    x = x + gate * linear(w, f"{name}.attn.to_out.0", out[:, : x.shape[1]])
    h = gelu(linear(w, f"{name}.ff.net.0.proj", layer_norm(x) * (1 + scale2) + shift2))
    x = x + gate2 * linear(w, f"{name}.ff.net.2", h)
    if last:
        return x, None
    gate, shift2, scale2, gate2 = text_rest
    text = text + gate * linear(w, f"{name}.attn.to_add_out", out[:, x.shape[1] :])
    h = gelu(linear(w, f"{name}.ff_context.net.0.proj", layer_norm(text) * (1 + scale2) + shift2))
    return x, text + gate2 * linear(w, f"{name}.ff_context.net.2", h)


def backbone(w, model, names, x, text, pooled, score):
    context, vector, blocks, norm = names
    half = model.score_width // 2
    angles = 100 * score[:, None] * (1000.0 if model.kind == "vq" else 10_000.0) ** (-np.arange(half) / half)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1)  # side by side
    if model.kind == "vq":
        waves = waves.transpose(0, 2, 1)  # all sines first
    c = linear(w, vector, np.concatenate([pooled, waves.reshape(len(score), -1)], axis=-1))
    text = linear(w, context, text)
    for i in range(model.layers):
        x, text = joint_block(w, f"{blocks}.{i}", x, text, c, model.heads, i == model.layers - 1)
    scale, shift = vectors(w, f"{norm}.linear", c, 2)
    return layer_norm(x) * (1 + scale) + shift


def wave_features(t, width=256):
    angles = t[..., None] * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)


def denoise(w, model, x, t, z):
    net = "diffloss.net"
    time = linear(w, f"{net}.time_embed.mlp.2", silu(linear(w, f"{net}.time_embed.mlp.0", wave_features(t))))
    y = time + linear(w, f"{net}.cond_embed", z)
    h = linear(w, f"{net}.input_proj", x)
    for i in range(model.denoiser_layers):
        block = f"{net}.res_blocks.{i}"
        shift, scale, gate = np.split(linear(w, f"{block}.adaLN_modulation.1", silu(y)), 3, axis=-1)
        normed = layer_norm(h) * w[f"{block}.in_ln.weight"] + w[f"{block}.in_ln.bias"]
        inner = silu(linear(w, f"{block}.mlp.0", normed * (1 + scale) + shift))
        h = h + gate * linear(w, f"{block}.mlp.2", inner)
    shift, scale = np.split(linear(w, f"{net}.final_layer.adaLN_modulation.1", silu(y)), 2, axis=-1)
    return np.split(linear(w, f"{net}.final_layer.linear", layer_norm(h) * (1 + scale) + shift), 2, axis=-1)


def test_the_networks_are_the_equations_of_the_paper(official):
    model, w, config = official
    loaded = convert.load("maskgen", w, config)["model"]
    condition, text, pooled, score = conditions(model, 3)
    rng = np.random.default_rng(2)
    masked = rng.random((3, 5)) < 0.5
    apply = jax.jit(loaded.module.apply, static_argnames="method")
    if model.kind == "vq":
        codes = rng.integers(0, 11, (3, 5, 1))
        found = apply(loaded.variables, codes, condition, masked)
        table = np.asarray(w["embeddings.weight"], np.float64)
        x = table[np.where(masked, 11, codes[..., 0])] + w["pos_embed"]
        names = ("text_embed_proj", "cond_pooled_proj", "blocks", "norm")
        expected = backbone(w, model, names, x, text, pooled, score) @ table[:11].T
        np.testing.assert_allclose(found, expected, atol=1e-4)
        return
    values = rng.standard_normal((3, 5, 3)).astype(np.float32)
    z = apply(loaded.variables, values, condition, masked)
    x = layer_norm(linear(w, "z_proj", values)) * w["z_proj_ln.weight"] + w["z_proj_ln.bias"]
    x = np.where(masked[..., None], w["mask_token"], x) + w["decoder_pos_embed_learned"]
    names = ("text_emb", "text_pooled_emb", "decoder_blocks", "decoder_norm")
    expected = backbone(w, model, names, x, text, pooled, score) + w["diffusion_pos_embed_learned"]
    np.testing.assert_allclose(z, expected, atol=1e-4)
    t = rng.integers(0, 1000, (3, 5))
    noise, variance = apply(loaded.variables, values, t, expected.astype(np.float32), method="denoise")
    for found, part in zip((noise, variance), denoise(w, model, values, t, expected), strict=True):
        np.testing.assert_allclose(found, part, atol=1e-4)


@pytest.mark.slow  # parity
def test_a_whole_run_without_noise_is_that_of_the_paper(official):
    model, w, config = official
    if model.kind != "vq":
        pytest.skip("continuous tokens begin as noise")
    condition, text, pooled, score = conditions(model, 3)
    null = model.condition(jnp.zeros((1, 4, 6)), jnp.zeros((1, 6)))
    null.features["score"] = condition.features["score"][:1]
    condition = dataclasses.replace(condition, null=null)
    settings = dataclasses.replace(MaskedSettings.maskgen(4, 0.0, 5.0, 0.5), start=0)
    loaded = convert.load("maskgen", w, config)["model"].variables
    params = jax.tree.map(jnp.asarray, loaded["params"])
    given = Latents(codes=jnp.full((3, 5, 1), 7), mask=jnp.zeros((3, 5, 1), bool).at[2, 1].set(True))

    @jax.jit
    def sample(given):
        return model.prior().sample(params, condition, jax.random.key(0), given=given, settings=settings)

    table = np.asarray(w["embeddings.weight"], np.float64)
    names = ("text_embed_proj", "cond_pooled_proj", "blocks", "norm")
    whose = ((text, pooled, score), (0 * text, 0 * pooled, np.full(3, score[0])))
    ids = np.where(given.mask, given.codes, 11)[..., 0]
    unknown = (ids == 11).sum(axis=1)
    for step in range(4):
        ratio = (step + 1) / 4
        x = table[ids] + w["pos_embed"]
        c, u = (backbone(w, model, names, x, *given) @ table[:11].T for given in whose)
        strength = 1 + (5.0 - 1) * (1 - math.cos(math.pi * ratio**0.5)) / 2
        logits = (c + strength * (c - u)) / (0.5 + 0.8 * (1 - ratio))
        drawn, masked = logits.argmax(-1), ids == 11
        confidence = np.where(masked, logits.max(-1), np.inf)
        ids = np.where(masked, drawn, ids)
        if step < 3:
            for row in range(3):
                left = math.floor(unknown[row] * math.acos(ratio) / (math.pi / 2))
                left = max(1, min(masked[row].sum() - 1, left))
                ids[row, np.argsort(confidence[row])[:left]] = 11
    codes = sample(given).codes[..., 0]
    np.testing.assert_array_equal(codes, ids)
    assert codes[2, 1] == 7


# -- the system --


def test_official_arguments_become_our_sizes():
    # The official default of the score that samples ask for is not that of the released models.
    assert from_official({}) == dataclasses.replace(MaskGenerator.vq_l(), score=6.0)
    assert from_official({"model": {"maskgen": {"sample_aesthetic_score": 6.5}}}) == MaskGenerator.vq_l()
    vae = {"vq_model": {"quantize_mode": "vae", "num_latent_tokens": 32}}
    assert from_official({"model": vae}) == dataclasses.replace(MaskGenerator.kl_l(), score=6.0)
    sampler = {"cfg": 4.0, "num_iter": 7, "temperature": 1.5, "cfg_schedule": "constant"}
    for config in (CODES, VALUES):
        own = {**config, "model": {**config["model"], "maskgen": {**SMALL["maskgen"], **sampler}}}
        model = from_official(own)
        assert (model.tokens, model.width, model.layers, model.heads, model.text.width) == (5, 16, 3, 2, 6)
        if model.kind == "vq":
            settings = model.settings
            assert (settings.steps, settings.guidance, settings.choice_temperature) == (7, 4.0, 1.5)
        else:
            settings = model.value_settings
            assert (settings.steps, settings.guidance, settings.guidance_schedule) == (7, 3.0, "constant")
            assert (model.channels, model.denoiser_layers, model.denoiser_width) == (3, 2, 12)
    untied = from_official({"model": {**SMALL, "maskgen": {**SMALL["maskgen"], "weight_tying": False}}})
    assert untied.shapes()["params"]["out"]["kernel"].shape == (16, 11)
    no_score = from_official({"model": {**SMALL, "maskgen": {**SMALL["maskgen"], "micro_condition": False}}})
    assert no_score.shapes()["params"]["backbone"]["vector"]["kernel"].shape == (6, 16)
    with pytest.raises(ValueError, match=r"has losses\.difloss_d \(did you mean diffloss_d"):
        convert.load("maskgen", {}, {**VALUES, "losses": {"difloss_d": 2, "diffloss_w": 12}})
    for change, message in (
        ({"vq_model": {"quantize_mode": "soft"}}, "quantize_mode='soft'"),
        ({"maskgen": {"mask_schedule_strategy": "root"}}, "mask_schedule_strategy='root'"),
        ({"maskgen": {"decoder_num_heads": 3}}, "width=1024 must divide by heads=3"),
        ({"maskgen": {"decoder_depth": 0}}, "layers=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda c=change: from_official({"model": c}).shapes() and None)


def test_what_does_not_fit_together_is_named():
    tiny = MaskGen.tiny()
    for changes, message in (
        ({"tokens": 9}, "models 9 tokens, the tokenizer makes 8"),
        ({"kind": "kl"}, "models tokens of 16 channels"),
        (
            {"text": dataclasses.replace(tiny.text, length=12)},
            "reads text_length=20 tokens of bytes, the generator 12",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(tiny, generator=dataclasses.replace(tiny.generator, **changes)).shapes()
    with pytest.raises(ValueError, match="no MaskGen of size 'xxl'; there are vq-l, vq-xl, kl-l, kl-xl"):
        MaskGen.published("xxl")
    with pytest.raises(ValueError, match=r"frozen CLIP; set --model\.generator\.text\.path"):
        MaskGen.published("vq-l").caption_condition(jnp.zeros((1, 77), int), jnp.ones((1, 77), bool))


def test_the_tiny_prior_of_values_draws_what_the_tokenizer_decodes():
    """Shapes alone; that of codes is in `test_every_system.py`."""
    model = MaskGen.tiny_kl()

    def everything(key, variables):
        ids, mask = caption_ids(["a handwritten two", "a handwritten ten"], 20)
        images = jnp.zeros((2, 8, 8, 1), jnp.uint8)
        text = model.decoder_text(ids, mask)
        prior = model.prior_named("masked")
        latents, condition = model.encode_images(variables, images), model.caption_condition(ids, mask)
        params = prior.init(key, latents, condition)
        loss, _ = prior.loss(params, latents, condition, key)
        drawn = prior.sample(params, condition, key)
        return loss, drawn, model.decode_images(variables, drawn, text=text)

    tokenizer = model.shapes()["tokenizer"]
    loss, drawn, images = jax.eval_shape(everything, jax.random.key(0), tokenizer)
    assert loss.shape == () and images.shape == (2, 8, 8, 1)
    assert model.space is None and drawn.values.shape == (2, 8, 8)


def test_nothing_behind_the_end_of_a_caption_is_read():
    model = MaskGen.tiny()
    text = dataclasses.replace(model.text, layers=1)
    model = dataclasses.replace(model, generator=dataclasses.replace(model.generator, layers=2, text=text))
    prior, params = model.prior_named("masked"), draw_like(model.generator.shapes()["params"])
    ids, mask = caption_ids(["a seven", "a handwritten two"], 20)
    codes = jnp.zeros((2, 8, 1), jnp.int32)

    @jax.jit
    def logits(ids, mask):
        return prior.apply(params, codes, model.caption_condition(ids, mask), jnp.ones((2, 8), bool))

    first = logits(ids, mask)
    behind, before = ids.copy(), ids.copy()
    behind[0, 10:], before[0, 2] = 99, 99
    np.testing.assert_allclose(logits(behind, mask), first, atol=1e-5)
    changed = logits(before, mask)
    assert np.abs(changed[0] - first[0]).max() > 1e-3
    np.testing.assert_allclose(changed[1], first[1], atol=1e-5)


def test_a_trained_system_tells_its_captions_to_both_parts():
    model = MaskGen.tiny()
    read = []

    class Model(MaskGen):
        def decode_images(self, variables, latents, size=None, text=None):
            read.append(text is not None)
            return jnp.zeros((latents.codes.shape[0], 8, 8, 1)) + (0 if text is None else text.mask.mean())

    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    system = Trained(Model(**fields), {"tokenizer": {}})
    codes = np.zeros((2, 8, 1), np.int32)
    assert system.decode(codes, captions=["a", "b"]).shape == system.decode(codes).shape == (2, 8, 8, 1)
    assert read == [True, False]


@pytest.mark.slow  # trains
def test_a_generator_of_continuous_tokens_learns_what_texts_say():
    generator = MaskGenerator(
        "kl",
        tokens=3,
        layers=2,
        heads=2,
        width=32,
        text=MaskGenText("bytes", 2, layers=1, heads=2, head_dim=8),
        score_width=0,
        channels=2,
        scale=0.4,
        denoiser_layers=2,
        denoiser_width=32,
        diffusion=GaussianDiffusion(50, "linear"),
        value_settings=MaskedValueSettings(3, guidance=0.0, diffusion_steps=0),
    )
    prior, texts = generator.prior(), ("a", "b", "c")
    ids, mask = (jnp.asarray(x) for x in caption_ids([*texts, ""], 2))
    null = generator.condition(ids[-1:], None, mask[-1:])
    means = 2 * normal(3, 3, 2)  # of each text, token and channel
    optimizer = optax.adam(3e-3)

    def condition(rows):
        return dataclasses.replace(generator.condition(ids[rows], None, mask[rows]), null=null)

    @jax.jit
    def run(params, key):
        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (32,), 0, 3)
            latents = Latents(values=means[rows] + 0.2 * jax.random.normal(key, (32, 3, 2)))
            (loss, _), gradient = jax.value_and_grad(prior.loss, has_aux=True)(
                params, latents, condition(rows), key
            )
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), loss

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 500))
        rows = jnp.repeat(jnp.arange(3), 40)
        return losses, prior.sample(params, condition(rows), key).values.reshape(3, 40, 3, 2)

    fresh = jax.jit(prior.init)(jax.random.key(0), prior.example(), condition(jnp.zeros(1, int)))
    losses, values = run(fresh, jax.random.key(1))
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:20])
    error, apart = np.mean(values, axis=1) - means, means - np.mean(means, axis=0)
    assert np.sum(np.square(error)) < 0.04 * np.sum(np.square(apart))
    distance = np.sum(np.square(values[:, :, None] - means[None, None]), axis=(3, 4))
    assert np.mean(np.argmin(distance, axis=-1) == np.arange(3)[:, None]) > 0.95
    # What is left of the noise of the data: more than nothing, less than what sets texts apart.
    spread = np.std(values, axis=1)
    assert 0.05 < np.median(spread) < 0.6, spread
