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
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.systems.image.llamagen import SIZES, LlamaGen, from_official
from jaxtok.weights import read_tensors
from tests.filled import draw_like

TINY = LlamaGen.tiny()

_SMALL = {"dim": 16, "n_layer": 2, "n_head": 2, "multiple_of": 16, "vocab_size": 24, "block_size": 9}
# Fields of the official arguments that change nothing in the network.
_OTHERS = {"initializer_range": 0.02, "max_batch_size": 32, "max_seq_len": 2048, "drop_path_rate": 0.0}
_OTHERS |= {"token_dropout_p": 0.1, "n_kv_head": None, "ffn_dim_multiplier": None}
# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {
    "tokenizer": {
        "model_args": {
            "codebook_size": 7,
            "codebook_embed_dim": 3,
            "encoder_ch_mult": [1, 2],
            "decoder_ch_mult": [1, 2],
            "z_channels": 8,
        },
        "ch": 32,
        "num_res_blocks": 1,
        "image_size": 8,
    },
    "classes": {"model_args": {**_SMALL, **_OTHERS, "model_type": "c2i", "num_classes": 6}},
    "captions": {"model_args": {**_SMALL, "model_type": "t2i", "caption_dim": 10, "cls_token_num": 5}},
}


def cells(x):
    """[B, C, h, w] to [B, N, C]."""
    return jnp.asarray(x.reshape(*x.shape[:2], -1).swapaxes(1, 2))


@pytest.mark.slow  # parity
@pytest.mark.parametrize("name", ["llamagen_vq", "llamagen_vq_nol2"])
def test_the_official_tokenizer_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors, _ = read_tensors(path)
    loaded = convert.load("llamagen", path)["model"]
    io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    images = jnp.asarray(io["image"].transpose(0, 2, 3, 1))
    quantizer = loaded.module.quantizer
    alone = quantizer.clone(width=quantizer.code_width, code_width=0)

    def pick(quantizer, z):  # values in the width of the codes
        return quantizer._chosen(quantizer.nearest(quantizer.inner(z)))[..., 0, :]

    @jax.jit
    def run(variables):
        apply = lambda *args, **kwargs: loaded.module.apply(variables, *args, **kwargs)
        params, features = variables["params"]["quantizer"], apply(images, method="features")
        inward = params["inward"]
        latents, codebook = features @ inward["kernel"] + inward["bias"], {"codebook": params["codebook"]}

        def losses(codebook, z):
            out = alone.apply({"params": codebook}, z, train=True)
            return sum(out.losses.values()), out.losses

        def projected(z):
            out = alone.apply({"params": codebook}, z, train=True)
            return jnp.sum(out.values * cells(io["train.cotangent"]))

        by_codebook, by_latents = jax.grad(lambda *a: losses(*a)[0], (0, 1))(codebook, cells(io["latents"]))
        terms = losses(codebook, cells(io["latents"]))[1]
        found = {
            "encoder": features,
            "latents": latents,
            "codes": apply(images, method="encode").codes.reshape(-1),
            "quantized": quantizer.apply({"params": params}, features, method=pick),
            "reconstruction": jnp.moveaxis(apply(images).x_hat, -1, 1),
            "decoded_from_codes": jnp.moveaxis(
                apply(io["codes"].reshape(images.shape[0], -1, 1).astype(np.int32), method="decode"), -1, 1
            ),
            "train.vq_loss": terms["codebook"],
            "train.commit_loss": terms["commitment"],
            "train.entropy_loss": terms.get("entropy", jnp.zeros(())),
            "train.grad_codebook_from_losses": by_codebook["codebook"],
            "train.grad_latents_from_losses": by_latents,
            "train.grad_latents_from_quantized": jax.grad(projected)(cells(io["latents"])),
        }
        return found

    found = run(loaded.variables)
    np.testing.assert_array_equal(found.pop("codes"), io["codes"])
    elsewhere = {"image", "codes", "train.cotangent", "train.codebook_usage", "train.codebook_used_after"}
    assert set(found) == set(io) - elsewhere
    for key, value in found.items():
        expected = io[key]
        expected = cells(expected) if expected.ndim == 4 and value.ndim == 3 else expected
        np.testing.assert_allclose(value, expected, atol=1e-4, err_msg=key)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


@pytest.mark.slow  # parity
@pytest.mark.parametrize("name", ["llamagen_gpt_c2i", "llamagen_gpt_t2i"])
def test_the_official_language_model_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors, metadata = read_tensors(path)
    config = json.loads(metadata["config"])
    loaded, model = convert.load("llamagen", path)["model"], from_official(config)
    io = {key.removeprefix("io."): value for key, value in tensors.items() if key.startswith("io.")}
    mask = jnp.asarray(io["text_mask"] != 0) if "text_mask" in io else None
    condition_of = lambda key: model.condition_on(
        jnp.asarray(io[key].astype(np.int32 if mask is None else np.float32)), mask
    )
    prior = Prior(loaded.module, dataclasses.replace(model.autoregressive().method, condition_dropout=0.0))
    params, apply = loaded.variables["params"], jax.jit(loaded.module.apply)

    codes = jnp.asarray(io["tokens"][..., None], jnp.int32)
    np.testing.assert_allclose(apply(loaded.variables, codes, condition_of("cond")), io["logits"], atol=1e-4)
    loss = jax.jit(lambda p, latents: prior.loss(p, latents, condition_of("cond"), jax.random.key(0))[0])
    np.testing.assert_allclose(loss(params, Latents(codes)), io["loss"], atol=1e-4)
    valid = jnp.broadcast_to(jnp.asarray(io["valid"] != 0)[:, None, None], codes.shape)
    np.testing.assert_allclose(loss(params, Latents(codes, mask=valid)), io["loss_valid"], atol=1e-4)

    prefix = io["freqs_cis"].shape[0] - model.tokens
    rope = loaded.module.apply(loaded.variables, prefix, prefix + model.tokens, method="_rope")
    planes = np.stack([rope.cos[:, ::2], rope.sin[:, ::2]], axis=-1)
    np.testing.assert_allclose(planes, io["freqs_cis"], atol=1e-5)

    for greedy, arguments in config["greedy"].items():
        interval = arguments.get("cfg_interval", -1)
        settings = AutoregressiveSettings(
            arguments["cfg_scale"] - 1, temperature=0.0, guided_tokens=interval + 2 if interval > -1 else 0
        )
        condition = condition_of(f"greedy.{greedy}.cond")
        sample = jax.jit(lambda p, c, s=settings: prior.sample(p, c, jax.random.key(0), settings=s).codes)
        drawn = sample(params, condition)
        np.testing.assert_array_equal(drawn[..., 0], io[f"greedy.{greedy}.tokens"])
        logits = apply(loaded.variables, drawn, condition)
        if settings.guidance:
            guided = guide(
                logits,
                apply(loaded.variables, drawn, condition.unconditional()),
                arguments["cfg_scale"],
                "u+s(c-u)",
            )
            within = np.arange(model.tokens) < (settings.guided_tokens or model.tokens)
            logits = jnp.where(within[:, None], guided, logits)
        np.testing.assert_allclose(logits, io[f"greedy.{greedy}.guided_logits"], atol=1e-4, err_msg=greedy)

    for filtered, settings in (
        ("topk5", AutoregressiveSettings(top_k=5)),
        ("topp07", AutoregressiveSettings(top_p=0.7)),
        ("topk6_topp05", AutoregressiveSettings(top_k=6, top_p=0.5)),
    ):
        found = settings.rules(jnp.asarray(io["filter.logits"]))
        np.testing.assert_array_equal(jnp.maximum(found, -1e9), io[f"filter.{filtered}"], err_msg=filtered)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow  # large models are traced
@pytest.mark.belongs_to("jaxtok.systems.image.llamagen")
@pytest.mark.parametrize("name, model", [("VQ-16", LlamaGen.vq_16()), ("VQ-8", LlamaGen.vq_8())])
def test_published_sizes_have_the_published_numbers_of_parameters(shared, name, model):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    (row,) = [row for row in rows if row["system"] == "llamagen" and row["configuration"] == name]
    params = model.shapes()["tokenizer"]["params"]
    assert elements(params) == row["parameters"]
    parts = {
        "encoder": elements(params["encoder"]),
        "decoder": elements(params["decoder"]),
        "quantize": elements(params["quantizer"]["codebook"]),
        "quant_conv": elements(params["quantizer"]["inward"]),
        "post_quant_conv": elements(params["quantizer"]["outward"]),
    }
    assert parts == row["parts"]


@pytest.mark.slow  # sixteen models are traced
@pytest.mark.belongs_to("jaxtok.systems.image.llamagen")
def test_language_models_have_the_published_numbers_of_parameters(shared):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    rows = [row for row in rows if row["system"] == "llamagen" and row["component"].startswith("GPT")]
    assert len(rows) == 16
    for row in rows:
        size, kind = row["configuration"].removeprefix("GPT-").split()[:2]
        pixels = 384 if "24x24" in row["configuration"] else 256
        model = (LlamaGen.c2i if kind == "c2i" else LlamaGen.t2i)(size, pixels)
        latents = Latents(jnp.zeros((1, model.tokens, 1), jnp.int32))
        params = jax.eval_shape(
            model.autoregressive().init, jax.random.key(0), latents, model.example_condition()
        )
        # "No text" is a buffer there.
        assert elements(params) - row["persistent_buffer_elements"] == row["parameters"], row["configuration"]
        assert from_official({"model_args": {**row["arguments"], "model_type": kind}}).prior.inner == (
            model.prior.inner
        )


def test_the_names_of_the_official_tokenizers_say_their_pixels_per_token():
    assert (LlamaGen.vq_16().tokens, LlamaGen.vq_8().tokens, LlamaGen.vq_16(384).tokens) == (256, 1024, 576)
    assert from_official({}) == LlamaGen.vq_16()
    a = {"encoder_ch_mult": [1, 2, 2, 4], "decoder_ch_mult": [1, 2, 2, 4]}
    assert from_official({"model_args": a}) == LlamaGen.vq_8()
    with pytest.raises(ValueError, match="256 channels per 8 pixels, the decoder reads 256 per 16"):
        from_official({"model_args": {"encoder_ch_mult": [1, 2, 2, 4]}})


def test_codes_of_unit_length_do_not_depend_on_the_length_of_features():
    variables = draw_like(TINY.shapes()["tokenizer"])
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    scaled = jax.tree.map(lambda x: x, variables)
    scaled["params"]["quantizer"]["codebook"] = 3 * variables["params"]["quantizer"]["codebook"]

    @jax.jit
    def run(variables):
        latents = TINY.encode_images(variables, images)
        return (
            latents.codes,
            TINY.decode_images(variables, latents),
            TINY.decode_images(variables, latents.codes),
        )

    codes, decoded, again = run(variables)
    assert codes.shape == (2, TINY.tokens, 1) and decoded.shape == images.shape
    np.testing.assert_array_equal(decoded, again)
    np.testing.assert_array_equal(run(scaled)[0], codes)
    np.testing.assert_allclose(run(scaled)[1], decoded, atol=1e-5)
    assert (
        from_official({"model_args": {"codebook_l2_norm": False}}).tokenizer().quantizer.metric == "euclidean"
    )


def test_a_prior_may_have_no_condition():
    alone = dataclasses.replace(TINY, conditioning="nothing")
    assert alone.condition_on(jnp.zeros(2, jnp.int32)) is None
    assert "conditioner" not in alone.shapes()["autoregressive"]["params"]
    assert "conditioner" in TINY.shapes()["autoregressive"]["params"]


def test_language_models_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no language model 'M'; there are B, L"):
        LlamaGen.c2i("M")
    for change, message in (
        ({"block_size": 10}, "block_size=10 must be the square"),
        ({"dim": 10, "n_head": 3}, "dim=10 must divide by n_head=3"),
        ({"n_head": 4, "n_kv_head": 2}, "n_kv_head=2 differs from n_head=4"),
        ({"model_type": "v2i"}, "model_type='v2i'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_official({"model_args": {"model_type": "c2i", **change}})
    assert set(SIZES) == {"B", "L", "XL", "XXL", "XXXL", "1B", "3B", "7B"}


def test_official_arguments_of_a_language_model():
    arguments = {"model_type": "c2i", "dim": 64, "n_layer": 3, "n_head": 2, "block_size": 9, "num_classes": 4}
    arguments |= {"multiple_of": 32, "ffn_dim_multiplier": 1.3, "class_dropout_prob": 0.0, "rope_base": 500.0}
    model = from_official({"model_args": arguments})
    assert (model.grid, model.prior.layers, model.prior.head_dim) == ((3, 3), 3, 32)
    assert model.prior.inner == 224  # int(1.3 * int(2 * 256 / 3)) = 221, up to a multiple of 32
    assert model.prior.rope_theta == 500.0 and model.condition_on(jnp.zeros(1, jnp.int32)).null is None
    assert elements(model.shapes()["autoregressive"]["params"]["conditioner"]) == 4 * 64


@pytest.mark.parametrize("length", [1, 77, 120])
def test_the_official_table_of_no_text_has_120_rows_whatever_the_number_of_tokens(length):
    """`CaptionEmbedder` is made with its default; the model reads the first of what it gives."""
    config = {"model_args": {**_SMALL, "model_type": "t2i", "caption_dim": 10, "cls_token_num": length}}
    component = LlamaGen.official_components(config)["model"]
    tensors = convert.export("llamagen", {"model": draw_like(component.shapes)}, config)
    assert tensors["cls_embedding.uncond_embedding"].shape == (120, 10)
    model = from_official(config)
    assert model.text_length == length
    with pytest.raises(ValueError, match="1 to 120"):
        from_official({"model_args": {**config["model_args"], "cls_token_num": 121}})
