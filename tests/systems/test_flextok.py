import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import Latents
from jaxtok.decoding.flow import FlowSettings
from jaxtok.decoding.guidance import Projection
from jaxtok.losses.flow import flow_loss, flow_point
from jaxtok.nn.byte_text import byte_ids
from jaxtok.nn.patches import patchify
from jaxtok.param_trees import merge_collections
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.run.trained import Trained
from jaxtok.systems.flow_objective import FlowObjective, FlowWeights
from jaxtok.systems.image import flextok_official
from jaxtok.systems.image.flextok import SIZES, FlexTok
from jaxtok.systems.image.flextok_table import MODULES
from jaxtok.systems.image.kl_vae import KLVAE, kl_vae_entries
from jaxtok.systems.image.prior_shape import CaptionBytes
from jaxtok.systems.objectives import PriorObjective
from jaxtok.tokenizers.nested_dropout import prefix_mask
from jaxtok.tokenizers.registers import RegisterShape, register_mask
from jaxtok.weights import Table, flatten, load_table, read_tensors, save_table
from tests.filled import draw_like

_SHAPE = RegisterShape(1, 1, 16)
SMALL = dataclasses.replace(
    FlexTok.tiny(), tokens=4, encoder=_SHAPE, decoder=_SHAPE, flow=FlowSettings(2, 1.0)
)
SMALL_VAE = KLVAE(2, 1, 4, (1, 2), 1, groups=2)
LATENT = dataclasses.replace(SMALL, vae=SMALL_VAE)

# Configurations of small official models, for `test_every_system.py`.
_PLAIN = {"channels": 2, "registers": 4, "enc_dim": 16, "dec_dim": 16, "enc_depth": 1, "dec_depth": 1}
_PLAIN |= {"head_dim": 16, "levels": [4, 4, 4], "max_sizes": [2, 2]}
_VAE = {"latent_channels": 2, "in_channels": 1, "block_out_channels": [4, 8]}
_VAE |= {"layers_per_block": 1, "norm_num_groups": 2}
OFFICIAL = {
    "plain": _PLAIN,
    "with its autoencoder": {**_PLAIN, "names": {"enc_to_latents": "head"}, "vae": _VAE},
}


def from_official(config):
    return flextok_official.from_official(config, FlexTok.published("d18-d28"))


def last(x):
    """Channels behind, as we have them."""
    return jnp.asarray(np.moveaxis(x, 1, -1))


def flow_settings(timesteps, guidance_scale, perform_norm_guidance=False):
    rule = "projected" if perform_norm_guidance else "u+s(c-u)"
    return FlowSettings(timesteps, float(guidance_scale), rule)


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow  # parity: a compilation per file
@pytest.mark.parametrize("name", ["flextok", "flextok_padded"])
def test_the_official_code_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors, metadata = read_tensors(path)
    config = json.loads(metadata["config"])
    loaded, model = convert.load("flextok", path)["model"], from_official(config)
    io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    module, variables = loaded.module, loaded.variables
    data, noise, t = last(io["vae_latents"]), last(io["noise"]), jnp.asarray(io["timesteps"])
    kept, codes = jnp.asarray(io["keep_k"]), jnp.asarray(io["tokens"][..., None], jnp.int32)

    @jax.jit
    def run(variables):
        apply = lambda *args, **kwargs: module.apply(variables, *args, **kwargs)
        point = flow_point(data, noise, t)
        values = apply(model.split(Latents(codes=codes)).codes, method="embed")
        mask = prefix_mask(kept, module.tokens)
        latents = Latents(values=values, mask=mask[..., None])

        def conditioning(*args):
            return apply(values, *args, method=lambda m, *args: m.decoder.conditioning(*args))

        def velocity(*args):
            return apply(point, t, conditioning(*args), method=lambda m, *args: m.decoder.velocity(*args)[0])

        def blocks(m, extra):
            size = tuple(side // config["patch"] for side in config["latent_hw"])
            cells = m.decoder.patches(patchify(point, config["patch"])) + m.decoder.place(size)
            shared = {"modulation": m.decoder.time(t)}
            if config["adaLN_expansion"] == 2:
                shared["segments"] = (cells.shape[1], module.tokens)
            x = jnp.concatenate([cells, extra], axis=1)
            return m.decoder.stack(x, shared=shared, collect="hidden")[1]

        def draw(settings):
            return apply(latents, None, None, settings, noise, method="decode")

        full, hidden = velocity(), apply(conditioning(), method=blocks)
        rounded = lambda z: jnp.sum(module.quantizer.apply({}, z).values * io["fsq.cotangent"])
        c, u = jnp.asarray(io["apg.cond"]), jnp.asarray(io["apg.uncond"])
        strength = config["sample"]["euler5_apg"]["guidance_scale"]
        guided, average = Projection()(c, u, strength, jnp.zeros_like(c))
        return {
            "register_latents": apply(data, method="features"),
            "tokens": model.join(apply(data, method="encode")).codes[..., 0],
            "quantized": apply(data, method="encode").values,
            "codes_from_tokens": values,
            "noised": point,
            "time_embedding": apply(t, method=lambda m, t: m.decoder.time(t)),
            "velocity": full,
            "velocity_keep_k": velocity(mask),
            "velocity_uncond": velocity(None, jnp.ones(len(t), bool)),
            "intermediate_layer0": hidden[0],
            "intermediate_patches": hidden[-1][:, : hidden.shape[2] - module.tokens],
            "flow_loss": flow_loss(full, data, noise),
            "apg.step1": guided,
            "apg.step2_with_half_cond": Projection()(0.5 * c, u, strength, average)[0],
            "fsq.grad": jax.grad(rounded)(jnp.asarray(io["register_latents"])),
            **{f"sample.{name}": draw(flow_settings(**a)) for name, a in config["sample"].items()},
        }

    found = run(variables)
    np.testing.assert_array_equal(found.pop("tokens"), io["tokens"])
    given = {"vae_latents", "noise", "timesteps", "keep_k", "fsq.cotangent", "apg.cond", "apg.uncond"}
    assert set(found) | {"tokens", "enc_mask"} == set(io) - given
    for key, value in found.items():
        moved = key.startswith(("sample.", "velocity", "noised"))
        expected = last(io[key]) if moved else io[key]
        if key == "intermediate_layer0":  # all images in one sequence, and padding
            expected = expected[0, : value.shape[0] * value.shape[1]].reshape(value.shape)
        np.testing.assert_allclose(value, expected, atol=1e-4, err_msg=key)
    patches = math.prod(config["latent_hw"]) // config["patch"] ** 2
    length = patches + config["registers"]
    mask = register_mask(patches, config["registers"], config["enc_mask"])
    np.testing.assert_array_equal(io["enc_mask"][0, 0, :length, :length] != 0, mask)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


@pytest.mark.slow  # large models are traced
@pytest.mark.belongs_to("jaxtok.systems.image.flextok")
@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_the_published_numbers_of_parameters(shared, size):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    rows = [row for row in rows if row["system"] == "flextok" and row["configuration"] == size]
    rows = {row["component"].split()[0]: row for row in rows if "+" not in row["component"]}
    tokenizer = FlexTok.published(size).shapes()["tokenizer"]
    for half in ("encoder", "decoder"):
        # Fixed positions are parameters there.
        trained, fixed = (elements(tokenizer[kind][half]) for kind in ("params", "constants"))
        assert (trained, fixed) == (rows[half]["trainable"], rows[half]["frozen"])
        assert trained + fixed == rows[half]["parameters"]
    arguments = rows["encoder"]["arguments"]
    official = from_official({**arguments, "vae": {}})
    assert elements(official.shapes()["tokenizer"]) == elements(tokenizer)


@pytest.mark.parametrize("channels", [4, 8, 16])
def test_autoencoders_have_the_published_numbers_of_parameters(shared, channels):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    (row,) = [r for r in rows if r["system"] == "flextok" and r["configuration"] == f"c{channels} f8"]
    shapes = KLVAE(channels).shapes()
    assert elements(shapes) == row["parameters"]
    names = {"inner": "encoder", "outer": "decoder", "moments_map": "quant_conv", "inward": "post_quant_conv"}
    assert {names[part]: elements(tree) for part, tree in shapes.items()} == row["parts"]


def test_a_file_may_have_an_autoencoder_and_names_of_its_own():
    config = OFFICIAL["with its autoencoder"]
    (component,) = FlexTok.official_components(config).values()
    variables = draw_like(component.shapes)
    tensors = save_table(component.table, merge_collections(variables), {})
    assert tensors["encoder.module_dict.head.proj.weight"].shape == (3, 16)
    assert tensors["vae.vae.decoder.up_blocks.0.upsamplers.0.conv.weight"].shape == (8, 8, 3, 3)
    assert tensors["vae.vae.encoder.mid_block.attentions.0.to_out.0.weight"].shape == (8, 8)
    model = from_official(config)
    assert (model.image_size, model.side, model.channels) == (8, 4, 1)
    # The autoencoder alone, as `--model.vae.path` reads it.
    alone_table = Table(tuple(kl_vae_entries(model.vae)))
    alone = save_table(alone_table, variables["vae"], {})
    assert set(alone) == {k.removeprefix("vae.vae.") for k in tensors if k.startswith("vae.")}
    read, _ = load_table(alone_table, alone, component.shapes["vae"])
    assert flatten(read).keys() == flatten(variables["vae"]).keys()
    # Files without one may come with theirs.
    without = FlexTok.official_components({**config, "vae": None})["model"].table
    assert not [entry for entry in without.entries if entry.theirs.startswith("vae.")]
    assert {entry.theirs.split(".")[2] for entry in without.entries} == {*MODULES, "head"} - {
        "enc_to_latents"
    }


def test_a_mup_read_out_is_divided_by_its_width():
    config = OFFICIAL["plain"]
    (plain,) = FlexTok.official_components(config).values()
    loaded = convert.Loaded("tokenizer", plain.module, draw_like(plain.shapes), {}, plain.table)
    tensors = convert.save(loaded)
    mup = convert.load("flextok", tensors, {**config, "width_mult": 3.0})["model"]
    ours, scaled = flatten(loaded.variables), flatten(mup.variables)
    for path, leaf in ours.items():
        factor = 3.0 if path == "params/decoder/out/kernel" else 1.0
        np.testing.assert_allclose(scaled[path] * factor, leaf, rtol=1e-6, err_msg=path)
    name = "decoder.module_dict.dec_to_patches.proj.weight"
    np.testing.assert_allclose(convert.save(mup)[name], tensors[name], rtol=1e-6)


def test_official_arguments_that_cannot_be_are_refused():
    for change, message in (
        ({"enc_dim": 100}, "enc_dim=100 must divide by head_dim=64"),
        ({"dec_posemb": "rope"}, "positions \\['rope'\\]; choose"),
    ):
        with pytest.raises(ValueError, match=message):
            from_official(change)
    for change, message in (
        ({"width_mult": 0}, "width_mult=0 must be a positive number"),
        ({"width_mult": math.nan}, "width_mult=nan must be"),
        ({"width_mult": "3"}, "width_mult='3' must be"),
        ({"use_mup_readout": True}, "set width_mult to it"),
        ({"use_mup_readout": False, "width_mult": 2.0}, "use_mup_readout=False has no divisor"),
    ):
        with pytest.raises(ValueError, match=message):
            FlexTok.official_components(change)
    with pytest.raises(ValueError, match="no FlexTok 'd6'; there are d12-d12"):
        FlexTok.published("d6")
    with pytest.raises(ValueError, match="image_size=20 must divide by 16"):
        FlexTok(image_size=20)
    with pytest.raises(ValueError, match="channels=1, but the autoencoder reads images of 3"):
        FlexTok(channels=1)


def test_the_prior_reads_all_slots_as_one_index():
    space = FlexTok.published("d12-d12").grouping.space
    assert space.levels == (64_000,)
    latents = Latents(codes=jnp.asarray([[[1, 2, 3], [3, 0, 1]]]), mask=jnp.ones((1, 2, 3), bool))
    joined = SMALL.join(latents)
    np.testing.assert_array_equal(joined.codes, [[[1 + 4 * 2 + 16 * 3], [3 + 16]]])
    back = SMALL.split(joined)
    np.testing.assert_array_equal(back.codes, latents.codes)
    assert joined.mask.shape == (1, 2, 1) and back.mask.shape == (1, 2, 3)
    first = SMALL.first(latents, 1)
    np.testing.assert_array_equal(first.mask[0, :, 0], [True, False])
    with pytest.raises(ValueError, match="tokens=5 must be 1 to 4"):
        SMALL.first(latents, 5)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SMALL, id="pixels"),
        pytest.param(LATENT, id="latents", marks=pytest.mark.slow),  # compiled anew
    ],
)
def trained(request):
    """A model, one step of both objectives and a draw of two tokens, in one compiled call."""
    model = request.param
    images = jnp.zeros((2, 8, 8, 1), jnp.uint8).at[:, 2:5, 3:6].set(200)
    batch = {"image": images, "label": jnp.asarray([3, 7], jnp.int32)}
    tokenizer = FlowObjective(model.tokenizer(), FlowWeights(), model.read, tuple(model.tokenizer_networks()))
    prior = PriorObjective(model.autoregressive(), model.encode, model.condition, grouping=model.grouping)
    frozen = {"vae": draw_like(model.vae.shapes())} if model.vae else {}
    keys = jax.random.split(jax.random.key(3), 2)  # image 0 has no condition, image 1 all tokens
    shapes = model.shapes()
    variables = draw_like(shapes)
    if frozen:
        variables["tokenizer"]["vae"] = frozen["vae"]

    @jax.jit
    def run(variables):
        own = variables["tokenizer"]

        def loss(params):
            terms = tokenizer.loss({**own, "params": params}, batch, frozen, keys, jnp.int32(0))
            return terms.total, terms

        (_, terms), gradient = jax.value_and_grad(loss, has_aux=True)(own["params"])
        nll = prior.loss(variables["autoregressive"], batch, {"tokenizer": own}, keys, jnp.int32(0))
        condition = model.class_condition(batch["label"])
        settings = AutoregressiveSettings(guidance=1.0, tokens=2)
        drawn = prior.prior.sample(variables["autoregressive"]["params"], condition, keys, settings=settings)
        images = model.decode_images(own, drawn)
        return terms, gradient, nll, drawn, images, model.decode_images(own, drawn.codes[:, :2])

    init = jax.eval_shape(tokenizer.init, jax.random.key(0), batch, frozen)
    return model, init, shapes, run(variables)


def test_a_step_reaches_everything_that_is_learned(trained):
    model, init, shapes, (terms, gradient, nll, _, _, _) = trained
    same = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert same(init) == same(shapes["tokenizer"])
    idle = [path for path, leaf in flatten(gradient).items() if not np.any(leaf)]
    assert idle == ["decoder/dropped"]
    assert np.isfinite(terms.total) and nll.total > 0
    assert set(terms.statistics) == {"counts"} and terms.statistics["counts"].shape == (64,)
    assert np.sum(terms.statistics["counts"]) == 2 * model.tokens


def test_a_few_drawn_tokens_decode_to_images(trained):
    _, _, _, (_, _, _, drawn, images, again) = trained
    np.testing.assert_array_equal(drawn.mask[..., 0], [[True, True, False, False]] * 2)
    assert drawn.codes.shape == (2, 4, 1) and not np.any(drawn.codes[:, 2:])
    assert images.shape == (2, 8, 8, 1)
    np.testing.assert_allclose(images, again, atol=1e-5)


def test_the_prior_is_conditioned_on_captions_or_nothing():
    spoken = dataclasses.replace(SMALL, conditioning="text", text=CaptionBytes(8, 1, 1, 16))

    def batch(*captions):
        ids, mask = byte_ids(captions, 8)
        return {"label": jnp.asarray([3, 7]), "text": jnp.asarray(ids), "text_mask": jnp.asarray(mask)}

    prior, condition = spoken.autoregressive(), spoken.condition(batch("three", "seven"), {})
    params = draw_like(spoken.shapes()["autoregressive"]["params"])
    mask = jnp.asarray([[True, False, False, False], [False] * 4])
    given = Latents(codes=jnp.full((2, 4, 1), 5), mask=mask[..., None])
    settings = AutoregressiveSettings(guidance=1.0, temperature=0.0)
    conditions = [spoken.condition(batch(text, text), {}) for text in ("three", "one")]

    sample = jax.jit(
        lambda params: prior.sample(params, condition, jax.random.key(0), given=given, settings=settings)
    )
    loss = jax.jit(lambda params, latents, c: prior.loss(params, latents, c, jax.random.key(1))[0])
    latents = sample(params)
    one, other = (loss(params, latents, c) for c in conditions)
    assert latents.codes[0, 0, 0] == 5 and latents.codes.shape == (2, 4, 1) and one != other
    with pytest.raises(ValueError, match=r"the batches have none; set --data\.text-length"):
        spoken.condition({"label": jnp.asarray([3, 7])}, {})
    with pytest.raises(ValueError, match="conditioned on captions, not on classes"):
        spoken.class_condition(jnp.asarray([3, 7]))
    with pytest.raises(ValueError, match="conditioned on 'class'; set conditioning='text'"):
        SMALL.caption_condition(jnp.zeros((2, 8), jnp.int32), jnp.ones((2, 8), bool))
    alone = dataclasses.replace(SMALL, conditioning="nothing")
    params = alone.shapes()["autoregressive"]["params"]
    assert alone.condition(batch("", ""), {}) is None and "conditioner" not in params


@pytest.mark.parametrize(
    "conditioning, captions",
    # The first is compiled for longer, and the test before it draws from captions already.
    [pytest.param("text", ["three", "one"], marks=pytest.mark.slow), ("nothing", 2)],
)
def test_a_system_draws_from_captions_or_from_nothing(conditioning, captions):
    model = dataclasses.replace(SMALL, conditioning=conditioning, text=CaptionBytes(8, 1, 1, 16))
    system = Trained(model, draw_like(model.shapes()))
    guidance = 1.0 if conditioning == "text" else 0.0
    if conditioning == "nothing":
        with pytest.raises(ValueError, match="without a condition; say how many"):
            system.sample([0, 0])
    images, latents = system.sample(captions, prior="autoregressive", guidance=guidance)
    assert images.shape == (2, 8, 8, 1) and images.dtype == np.uint8 and latents.codes.shape == (2, 4, 1)


def test_alignment_needs_its_network():
    with pytest.raises(ValueError, match=r"alignment_weight=0\.5, but no frozen network"):
        FlowObjective(SMALL.tokenizer(), FlowWeights(alignment_weight=0.5), SMALL.read)
