import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import CodeSpace, Latents
from jaxtok.quantize.vq_losses import similarities
from jaxtok.systems.image.maskgit_vqgan import MaskGITVQGAN, from_official, official_components
from jaxtok.weights import read_tensors
from tests.filled import draw_like, normal

TINY = MaskGITVQGAN.tiny()
RECORDED_TEMPERATURE = 2.0  # of the soft codes

_CONF = {"channel_mult": [1, 2], "num_resolutions": 2, "hidden_channels": 32, "num_res_blocks": 1}
# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {"model": {"conf": {**_CONF, "num_channels": 3, "z_channels": 4}, "codes": 5, "image_size": 8}}


@pytest.mark.slow  # parity
def test_the_official_code_gives_the_same(shared):
    path = shared("goldens/maskgit_vqgan.safetensors")
    tensors, metadata = read_tensors(path)
    loaded, model = (
        convert.load("maskgit_vqgan", path)["model"],
        from_official(json.loads(metadata["config"])),
    )
    io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    images = jnp.asarray(2 * io["image"].transpose(0, 2, 3, 1) - 1)
    quantized = io["quantized"].transpose(0, 2, 3, 1)

    @jax.jit
    def run(variables):
        apply = lambda *args, **kwargs: loaded.module.apply(variables, *args, **kwargs)
        out, features = apply(images), apply(images, method="features")
        narrow = quantized[:, :, :-1]
        size = model.shape.factor * narrow.shape[1], model.shape.factor * narrow.shape[2]
        narrow = Latents(values=jnp.asarray(narrow).reshape(narrow.shape[0], -1, narrow.shape[-1]))
        distances = -similarities(
            features[:, :, None], variables["params"]["quantizer"]["codebook"], "euclidean"
        )
        grid = lambda x: jnp.moveaxis(x.reshape(quantized.shape), -1, 1)
        return {
            "latents": grid(features),
            "codes": apply(images, method="encode").codes[..., 0],
            "quantized": grid(out.quantized.values),
            "quantize_loss": sum(out.quantized.losses.values()),
            "distances": jnp.square(distances).reshape(-1, model.codes),
            "soft_code": jax.nn.softmax(-jnp.square(distances[:, :, 0]) / RECORDED_TEMPERATURE, axis=-1),
            "reconstruction": jnp.moveaxis(out.x_hat + 1, -1, 1) / 2,
            "reconstruction_clamped": jnp.clip(jnp.moveaxis(out.x_hat + 1, -1, 1) / 2, 0, 1),
            "odd_decode": jnp.moveaxis(apply(narrow, size, method="decode") + 1, -1, 1) / 2,
        }

    found = run(loaded.variables)
    np.testing.assert_array_equal(found.pop("codes"), io["codes"])
    assert set(found) == set(io) - {"image", "codes"}
    for key, value in found.items():
        np.testing.assert_allclose(value, io[key], atol=1e-4, err_msg=key)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_published_size_has_the_published_number_of_parameters(shared):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    (row,) = [row for row in rows if row["component"] == "MaskGIT VQGAN (pixel tokenizer)"]
    params = MaskGITVQGAN.imagenet_f16_256().shapes()["tokenizer"]["params"]
    assert elements(params) == row["parameters"]
    parts = {"encoder": "encoder", "decoder": "decoder", "quantizer": "quantize"}
    assert {theirs: elements(params[ours]) for ours, theirs in parts.items()} == row["parts"]
    assert from_official({"conf": row["arguments"]}) == MaskGITVQGAN.imagenet_f16_256()


@pytest.fixture(scope="module")
def variables():
    return draw_like(TINY.shapes()["tokenizer"])


def test_certain_logits_decode_like_the_codes(variables):
    codes = jnp.asarray(np.random.default_rng(0).integers(0, TINY.codes, (2, TINY.tokens, 1)), jnp.int32)

    @jax.jit
    def run(variables):
        certain = TINY.decode_soft(variables, 1e4 * jax.nn.one_hot(codes[..., 0], TINY.codes))
        energy = lambda logits: jnp.sum(jnp.square(TINY.decode_soft(variables, logits)))
        return (
            TINY.decode_images(variables, codes),
            certain,
            jax.grad(energy)(normal(2, TINY.tokens, TINY.codes)),
        )

    hard, certain, gradient = run(variables)
    assert hard.shape == (2, 8, 8, 1) and TINY.space == CodeSpace((64,)) and TINY.tokens == 16
    np.testing.assert_allclose(certain, hard, atol=1e-5)
    assert np.abs(gradient).max() > 0


def test_images_are_signed_outside_whatever_they_are_inside(variables):
    wide = np.random.default_rng(1).integers(0, 256, (1, 8, 12, 1), dtype=np.uint8)
    signed = dataclasses.replace(TINY, shape=dataclasses.replace(TINY.shape, unit_range=False))

    @jax.jit
    def run(variables):
        codes = TINY.encode_images(variables, wide).codes
        features = signed.tokenizer().apply(variables, wide / np.float32(255), method="features")
        decoded = [model.decode_images(variables, codes, (8, 12)) for model in (TINY, signed)]
        return TINY.tokenizer().apply(variables, wide, method="features"), features, *decoded

    unit, other, decoded, raw = run(variables)
    assert unit.shape == (1, 4 * 6, TINY.shape.features)
    np.testing.assert_allclose(unit, other, atol=1e-5)
    np.testing.assert_allclose(decoded, 2 * raw - 1, atol=1e-5)


def test_official_arguments_become_our_sizes():
    conf = {
        "channel_mult": [1, 2],
        "hidden_channels": 32,
        "num_res_blocks": 3,
        "num_channels": 1,
        "z_channels": 5,
    }
    model = from_official({"conf": conf, "codes": 7, "commitment_cost": 0.5, "image_size": 8})
    shape = model.shape
    assert (shape.multipliers, shape.channels, shape.blocks, shape.middle) == ((1, 2), 32, 3, 3)
    assert (model.channels, shape.features, model.codes, model.image_size, model.tokens) == (1, 5, 7, 8, 16)
    quantizer = model.tokenizer().quantizer
    assert (quantizer.commitment, quantizer.codebook_weight) == (1.0, 0.5)
    with pytest.raises(ValueError, match="num_resolutions=3"):
        from_official({"conf": {"num_resolutions": 3, "channel_mult": [1, 2]}})


def test_every_tensor_of_the_released_layout_has_its_place():
    part = official_components(None)["model"]
    names = [name for entry in part.table.entries for name in entry.names]
    assert (
        "encoder.down.2.block.0.nin_shortcut.weight" in names and "decoder.up.1.upsample_conv.bias" in names
    )
    assert "encoder.conv_in.bias" not in names and "encoder.mid.1.conv2.weight" in names
    state = {name: np.zeros(3, np.float32) for name in names if name != "decoder.conv_in.weight"}
    with pytest.raises(ValueError, match=r"missing tensors \(1\)"):
        convert.load("maskgit_vqgan", state)
