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
from jaxtok.run.trained import Trained
from jaxtok.systems.image.var import SIZES, VAR, ScalePriorShape, from_official, official_components
from jaxtok.weights import read_tensors
from tests.filled import draw_like

TINY = VAR.tiny()

_VAE = {"vocab_size": 7, "z_channels": 4, "ch": 32, "share_quant_resi": 2, "v_patch_nums": [1, 2, 4]}
_NETWORK = {"num_classes": 5, "depth": 2, "embed_dim": 16, "num_heads": 2}
# Arguments of the official constructor that change nothing in the network.
_OTHERS = {"drop_rate": 0.0, "attn_drop_rate": 0.0, "flash_if_available": True, "fused_if_available": True}
_OTHERS |= {"patch_nums": [1, 2, 4]}
_SIZES = {"ch_mult": [1, 2], "num_res_blocks": 1, "image_size": 8}
# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {
    "tokenizer": {"args": _VAE, **_SIZES},
    "whole": {"var": {**_NETWORK, **_OTHERS}, "vae": {**_VAE, "dropout": 0.0, "test_mode": True}, **_SIZES},
    "one modulation for all": {
        "var": {**_NETWORK, "shared_aln": True},
        "patch_nums": [1, 2, 4],
        "vae": _VAE,
        **_SIZES,
    },
    "unused convolutions": {"args": {**_VAE, "share_quant_resi": 4, "v_patch_nums": [2, 3, 4]}, **_SIZES},
    "a number of convolutions": {
        "args": {**_VAE, "share_quant_resi": 0, "default_qresi_counts": 2},
        **_SIZES,
    },
}


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
    method = dataclasses.replace(model.next_scale().method, condition_dropout=0.0)
    prior = Prior(loaded["model"].module, method)
    params, vae = loaded["model"].variables["params"], loaded["vae"].variables
    codes = jnp.asarray(io["codes"][..., None], jnp.int32)
    condition = model.class_condition(jnp.asarray(io["labels"], jnp.int32))
    strengths = {"greedy": 1.5, "greedy_cfg4": 4.0}

    @jax.jit
    def run(params, vae):
        codec, key = model.prior_codec(vae), jax.random.key(0)
        drawn = [
            prior.sample(params, condition, key, settings=NextScaleSettings(w, top_k=1), codec=codec).codes
            for w in strengths.values()
        ]
        every = jnp.concatenate([codes, *drawn])
        inputs = codec.next_inputs(every)
        rows = jnp.tile(condition.features, 3)
        conditioned, without = (
            prior.apply(params, every, c, inputs).reshape(3, *codes.shape[:2], -1)
            for c in (model.class_condition(rows), model.class_condition(rows).unconditional())
        )
        found = {
            "var_input": inputs[: codes.shape[0]],
            "logits": conditioned[0],
            "logits_uncond": without[0],
            "cross_entropy": prior.loss(params, Latents(codes), condition, key, codec)[0],
        }
        images = jnp.clip(model.decode_images(vae, every), -1, 1)
        images = images.reshape(3, codes.shape[0], *images.shape[1:])
        for i, (name, strength) in enumerate(strengths.items(), start=1):
            course = jnp.asarray(strength * model.layout.levels[:, None] / model.layout.levels[-1])
            found[f"{name}.codes"] = drawn[i - 1][..., 0]
            found[f"{name}.logits"] = guide(conditioned[i], without[i], course, "c+s(c-u)")
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


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow  # large models are traced
@pytest.mark.belongs_to("jaxtok.systems.image.var")
def test_published_sizes_have_the_published_numbers_of_parameters(shared):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    rows = {row["configuration"]: row for row in rows if row["system"] == "var"}
    for pixels, size in ((256, "d16"), (512, "d36")):
        model, row = VAR.published(size), rows[f"V4096 C32 ch160 ({pixels})"]
        assert list(model.scales) == row["arguments"]["v_patch_nums"] and model.image_size == pixels
        params = model.shapes()["tokenizer"]["params"]
        quantizer = params["quantizer"]
        found = {
            "encoder": elements(params["encoder"]),
            "decoder": elements(params["decoder"]),
            "quantize": elements(quantizer["scales"]),
            "quant_conv": elements(quantizer["inward"]),
            "post_quant_conv": elements(quantizer["outward"]),
        }
        assert found == row["parts"]
    for size in SIZES:
        model, row = VAR.published(size), rows[size]
        a = row["arguments"]
        assert (model.prior.width, model.prior.heads, list(model.scales)) == (
            a["width"],
            a["heads"],
            a["patch_nums"],
        )
        params = jax.eval_shape(
            model.next_scale().init,
            jax.random.key(0),
            Latents(jnp.zeros((1, model.tokens, 1), jnp.int32)),
            model.class_condition(jnp.zeros(1, jnp.int32)),
        )
        assert elements(params) == row["parameters"], size
    assert VAR.published("d16").tokens == 680


def test_a_raster_prior_of_one_scale_has_as_many_parameters():
    grid = dataclasses.replace(TINY, scales=(4,))
    ours, theirs = (elements(model.shapes()[model.priors[0]]["params"]["stack"]) for model in (TINY, grid))
    assert abs(ours - theirs) < 0.01 * ours and grid.tokens == 16
    with pytest.raises(ValueError, match="a raster prior reads a single scale"):
        TINY.raster()
    with pytest.raises(ValueError, match=r"with scales=\(4,\) choose one of \('raster',\)"):
        grid.prior_named("next_scale")


@pytest.fixture(scope="module")
def variables():
    return draw_like(TINY.shapes()["tokenizer"])


def test_scales_that_are_absent_add_nothing(variables):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)

    @jax.jit
    def run(variables):
        latents = TINY.encode_images(variables, images)
        seen = jnp.broadcast_to(jnp.arange(21)[:, None] < 5, latents.codes.shape)
        first = TINY.decode_images(variables, latents.codes[:, :5])
        masked = TINY.decode_images(variables, Latents(latents.codes, mask=seen))
        whole = [TINY.decode_images(variables, x) for x in (latents, latents.codes)]
        values = TINY.prior_codec(variables).embed(latents.codes)
        return latents, first, masked, whole, TINY.decode_images(variables, Latents(values=values))

    latents, first, masked, (whole, again), of_values = run(variables)
    assert latents.codes.shape == (2, 21, 1) and latents.values is None and whole.shape == images.shape
    np.testing.assert_allclose(first, masked, atol=1e-5)
    np.testing.assert_allclose(whole, again, atol=1e-5)
    np.testing.assert_allclose(whole, of_values, atol=1e-5)
    assert np.abs(first - whole).max() > 1e-2
    assert TINY.tokenizer().layout == TINY.layout and TINY.tokenizer().tokens == 21
    with pytest.raises(ValueError, match="64 cells, but the last of the scales"):
        jax.eval_shape(lambda v: TINY.encode_images(v, np.zeros((1, 16, 16, 1), np.uint8)), variables)


def test_official_arguments():
    assert from_official({}) == VAR()
    for size in SIZES:
        a = {"depth": int(size[1:]), "shared_aln": SIZES[size][1], "drop_path_rate": 0.1 * int(size[1:]) / 24}
        vae = {"v_patch_nums": VAR.published(size).scales}
        settled = from_official({"var": a, "vae": vae})
        assert settled.next_scale().network == VAR.published(size).next_scale().network
        assert settled.prior.drop_paths == VAR.published(size).prior.drop_paths
        assert settled.image_size == VAR.published(size).image_size
    assert set(official_components(None)) == {"model", "vae"}
    assert from_official({"args": {"quant_resi": 0.0}}).phis == 0
    assert from_official({"args": {"share_quant_resi": 0}}).phis == 10
    for official in ({"patch_nums": (1, 2)}, {"var": {"patch_nums": [1, 2]}}):
        with pytest.raises(ValueError, match=r"patch_nums=.1, 2. contradicts v_patch_nums of the tokenizer"):
            from_official(official)
    with pytest.raises(ValueError, match=r"image_size=100 contradicts v_patch_nums=.* by which it is 256"):
        from_official({"image_size": 100})
    with pytest.raises(ValueError, match="embed_dim=10 must divide by num_heads=3"):
        from_official({"var": {"embed_dim": 10, "num_heads": 3}})
    with pytest.raises(ValueError, match="no transformer 'd17'"):
        VAR.published("d17")
    with pytest.raises(ValueError, match=r"the last of scales=\(1, 2\) must be 16"):
        dataclasses.replace(VAR(), scales=(1, 2))


@pytest.mark.slow  # the sampler and the decoder are compiled
def test_a_whole_system_completes_what_is_given(variables):
    model = dataclasses.replace(TINY, prior=ScalePriorShape(1, 2, 8))
    prior = draw_like(model.shapes()["next_scale"])
    system = Trained(model, {"tokenizer": variables, "next_scale": prior})
    codes = np.random.default_rng(0).integers(0, 64, (2, 21, 1)).astype(np.int32)
    given = Latents(codes, mask=np.broadcast_to(np.arange(21)[:, None] < 5, codes.shape))
    images, latents = system.sample([3, 7], "next_scale", given=given, guidance=1.0)
    assert images.shape == (2, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(latents.codes[:, :5], codes[:, :5])
    assert np.any(np.asarray(latents.codes[:, 5:]) != codes[:, 5:])


def test_convolutions_that_no_scale_uses_ride_along():
    """The official tokenizer has all four of them, and with three scales one is no scale's nearest."""
    config = OFFICIAL["unused convolutions"]
    component = VAR.official_components(config)["model"]
    tensors = convert.export("var", {"model": draw_like(component.shapes)}, config)
    present = {name.split(".")[-2] for name in tensors if name.startswith("quantize.quant_resi.qresi_ls.")}
    (absent,) = {"0", "1", "2", "3"} - present
    width = next(v for k, v in tensors.items() if "qresi_ls" in k and k.endswith("bias")).shape[0]
    stem = f"quantize.quant_resi.qresi_ls.{absent}"
    extras = {f"{stem}.weight": np.ones((width, width, 3, 3)), f"{stem}.bias": np.ones(width)}
    loaded = convert.load("var", {**tensors, **extras}, config)
    saved = convert.save(loaded)
    assert saved.keys() == tensors.keys() | extras.keys()
    assert from_official(OFFICIAL["a number of convolutions"]).phis == 2
