import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import CodeSpace, Condition
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.instella_t2i import PRIORS, InstellaT2I, TextShape, from_official
from jaxtok.weights import read_tensors


def small_official(down=(0,), up=(1,), layers=2):
    """Constructor arguments of a small official model."""
    return {
        "bae": {
            "in_channels": 3,
            "encoder_layers": layers,
            "encoder_head_dim": 8,
            "encoder_num_heads": 2,
            "patch_size": 2,
            "num_latent_tkns": 3,
            "axes_dims_rope": [4, 2, 2],
            "downsample_idx": list(down),
            "decoder_layers": layers,
            "decoder_head_dim": 8,
            "decoder_num_heads": 1,
            "upsample_idx": list(up),
            "codebook_size": 5,
            "train_temp": 0.3,
            "use_repa": False,
            "repa_index": 4,
        },
        "prior": {"num_layers": 2, "head_dim": 4, "heads": 2, "text_dim": 6, "axes_dims_rope": [16, 56, 56]},
        "image_size": 16,
        "scale": 16,
    }


# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {
    "down and up": small_official(),
    "no resampling": small_official((), (), 3),
    "two steps": small_official((0, 1), (0, 2), 3),
    "the last block": small_official((2,), (2,), 3),
}


@pytest.mark.slow  # parity: five compilations per file
@pytest.mark.parametrize("name", ["instella_t2i", "instella_t2i_scaled"])
def test_the_official_code_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    loaded, (tensors, _) = convert.load("instella_t2i", path), read_tensors(path)
    io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    bae, images = loaded["bae"], jnp.asarray(io["image"].transpose(0, 2, 3, 1))
    height, width = images.shape[1:3]

    @jax.jit
    def tokenizer(variables):
        run = lambda *args, **kwargs: bae.module.apply(variables, *args, **kwargs)
        out, latents = run(images), run(images, method="encode")
        return {
            "encoder": run(images, method="features"),
            "logits": run(images, method="logits"),
            "embeddings": latents.values,
            "bits": latents.codes,
            "bit_regulariser": out.quantized.losses["bits"][None],
            "reconstruction": jnp.moveaxis(out.x_hat, -1, 1),
            "decoded": jnp.moveaxis(run(latents, method="decode"), -1, 1),
            "decoded_2x": jnp.moveaxis(run(latents.codes, (2 * height, 2 * width), method="decode"), -1, 1),
        }

    def prior(name, *time):
        features, mask = io[f"{name}.text"], io[f"{name}.text_mask"].astype(bool)
        condition = Condition(jnp.asarray(features), jnp.asarray(mask), batch_axis=1)
        bits = io["bits"].astype(np.int32)
        return jax.jit(loaded[name].module.apply)(loaded[name].variables, bits, condition, *time)

    found = tokenizer(bae.variables)
    found |= {"diff.output": prior("diff", io["diff.t"]), "ar.output": prior("ar")}
    np.testing.assert_array_equal(found.pop("bits"), io["bits"])
    inputs = {"image", "bits", "diff.t", *(f"{p}.{n}" for p in ("diff", "ar") for n in ("text", "text_mask"))}
    assert set(found) == set(io) - inputs
    for key, value in found.items():
        np.testing.assert_allclose(value, io[key], atol=1e-4, err_msg=key)


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def measured(bits):
    """Parameters of our published sizes, by the component names of the official module tree."""
    model = InstellaT2I.bae_1024(bits)
    shapes = {name: tree["params"] for name, tree in model.shapes().items()}
    tokenizer, width = shapes["tokenizer"], model.prior.heads * model.prior.head_dim
    pixels = elements(tokenizer["decoder"]["pixels"])
    # The official autoregressive model owns a time embedding that it never uses.
    unused = width + width + width * width + width
    return {
        "BAE total": elements(tokenizer),
        "BAE encoder": elements(tokenizer["encoder"]),
        "BAE decoder": elements(tokenizer["decoder"]) - pixels,
        "BAE to_pixel": pixels,
        "BAE quantizer": elements(tokenizer["quantizer"]),
        "diffusion prior": elements(shapes["diffusion"]),
        "AR prior": elements(shapes["autoregressive"]) + unused,
    }


@pytest.mark.slow  # large models are traced
@pytest.mark.belongs_to("jaxtok.systems.image.instella_t2i")
def test_published_sizes_have_the_published_numbers_of_parameters(shared):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    rows = [row for row in rows if row["system"] == "instella_t2i"]
    ours = {bits: measured(bits) for bits in (64, 128)}
    assert len(rows) == 11
    for row in rows:
        bits = 128 if "128 bits" in row["configuration"] else 64
        assert ours[bits][row["component"]] == row["parameters"], row["configuration"]


def test_the_small_size_builds():
    shapes = InstellaT2I.small().shapes()
    assert set(shapes) == {"tokenizer", *PRIORS} and 1e6 < elements(shapes) < 1e8


def test_the_comparison_with_one_codebook_has_an_autoregressive_prior_only():
    model = dataclasses.replace(
        InstellaT2I.tiny(), quantizer=VQConfig(codes=256, code_width=8, learning="ema", revive_below=0.1)
    )
    assert model.space == CodeSpace((256,)) and set(model.shapes()) == {"tokenizer", "autoregressive"}
    with pytest.raises(ValueError, match="needs tokens of bits"):
        model.diffusion()


def test_an_unconditional_system_has_no_condition():
    model = dataclasses.replace(InstellaT2I.tiny(), text=TextShape("none"))
    assert model.example_condition() is None and set(model.shapes()) == {"tokenizer", *PRIORS}


def test_captions_have_the_empty_caption_as_null():
    model = InstellaT2I.tiny()
    condition = model.caption_condition(jnp.full((2, 24), 5, jnp.int32), jnp.ones((2, 24), bool))
    null = condition.unconditional()
    assert null.features[:, 0].tolist() == [257, 257] and null.mask.sum() == 2


def test_official_arguments_become_our_sizes():
    published = from_official({})
    assert published == InstellaT2I.bae_1024()
    arguments = {
        "bae": {
            "in_channels": 1,
            "encoder_layers": 3,
            "encoder_num_heads": 2,
            "encoder_head_dim": 8,
            "axes_dims_rope": [4, 2, 2],
            "downsample_idx": [0, 2],
            "decoder_layers": 2,
            "decoder_num_heads": 1,
            "decoder_head_dim": 8,
            "upsample_idx": [],
            "patch_size": 4,
            "num_latent_tkns": 5,
            "codebook_size": 7,
            "use_repa": True,
            "repa_index": 1,
            "repa_dim": 9,
        },
        "prior": {"num_layers": 2, "num_attention_heads": 3, "attention_head_dim": 4, "text_cond_dim": 6},
        "image_size": 16,
        "scale": 64,
    }
    model = from_official(arguments)
    assert (model.channels, model.patch, model.tokens, model.space.slots, model.scale) == (1, 4, 5, 7, 16)
    assert model.encoder.segments == (1, 2, 0) and model.decoder.segments == (2,)
    assert (model.encoder.width, model.decoder.width) == (16, 8)
    assert (model.align_after, model.align_width, model.rope_layout) == (1, 9, "instella")
    assert (model.prior.layers, model.prior.heads, model.prior.head_dim, model.text.width) == (2, 3, 4, 6)
    assert from_official({**arguments, "scale": None}).scale is None
    assert from_official({**arguments, "scale": 42}).scale == 10.5
    assert from_official(small_official()).quantizer.sampling_temperature == 0.3
    with pytest.raises(ValueError, match=r"axis_dims_rope=\[2, 2, 4\] contradicts axes_dims_rope"):
        from_official({**arguments, "axis_dims_rope": [2, 2, 4]})


def test_every_resampling_step_has_its_tensors():
    """There and back they go in `test_every_system.py`."""
    table = InstellaT2I.official_components(OFFICIAL["two steps"])["bae"].table
    names = [name for entry in table.entries for name in entry.names]
    assert sum("down_layers" in name and name.endswith("weight") for name in names) == 2
