import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.codes import CodeSpace
from jaxtok.quantize.gaussian import GaussianConfig, kl_to_standard_normal
from jaxtok.quantize.soft_assignment import soft_lookup
from jaxtok.quantize.vq import VQConfig
from jaxtok.quantize.vq_losses import cross_entropy
from jaxtok.systems.image.tatitok import TATiTok
from jaxtok.systems.image.titok import PRIORS, TiTok, titok
from jaxtok.systems.image.titok_maskgit import TiTokMaskGIT
from jaxtok.systems.image.titok_table import from_official, table
from jaxtok.weights import read_tensors

RECORDED = (
    "titok_vq",
    "titok_vae",
    "titok_legacy_stage1",
    "titok_legacy_stage2",
    "tatitok_vq",
    "tatitok_vae",
)
TINY = TiTok.tiny()


def official_config(mode, legacy, text):
    """Constructor arguments of a small official model."""
    vq = {
        "codebook_size": 6,
        "token_size": 4,
        "vit_enc_model_size": "s",
        "vit_dec_model_size": "t",
        "vit_enc_patch_size": 4,
        "vit_dec_patch_size": 2,
        "num_latent_tokens": 3,
        "finetune_decoder": legacy,
        "is_legacy": legacy,
        "clustering_vq": mode == "vq",
        "quantize_mode": mode,
    }
    return {
        # The file of a run says more than the network needs.
        "titok": {
            "experiment": {"name": "small", "max_train_examples": 1000},
            "model": {"vq_model": vq, "generator": {"model_type": "ViT"}},
            "losses": {"discriminator_start": 20},
            "dataset": {"preprocessing": {"crop_size": 8}, "params": {"num_workers_per_gpu": 12}},
            "optimizer": {"name": "adamw", "params": {"learning_rate": 1e-4}},
        },
        "sizes": {"width": {"s": 8, "t": 12}, "layers": {"s": 1, "t": 2}, "heads": {"s": 2, "t": 3}},
        "pixel": {"codes": 5, "dim": 4, "mult": [1, 2], "hidden": 32, "res_blocks": 1},
        "text": text,
    }


# For `test_every_system.py`.
OFFICIAL = {
    "two stages": official_config("vq", legacy=True, text=False),
    "text": official_config("vq", legacy=False, text=True),
    "Gaussian": official_config("vae", legacy=False, text=False),
}


def first(x):
    """Channels in front, as the recordings have them: [B, E, 1, N] of tokens, [B, C, H, W] of images."""
    return jnp.swapaxes(x, 1, 2)[:, :, None] if x.ndim == 3 else jnp.moveaxis(x, -1, 1)


def grid(x):
    """[B, K, h, w] of a square grid of cells [B, cells, K]."""
    side = math.isqrt(x.shape[1])
    return jnp.moveaxis(x.reshape(x.shape[0], side, side, -1), -1, 1)


@pytest.mark.slow  # parity: a compilation per file
@pytest.mark.parametrize("name", RECORDED)
def test_the_official_code_gives_the_same(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors, metadata = read_tensors(path)
    system = name.partition("_")[0]
    loaded = convert.load(system, path)["model"]
    published = TATiTok.bl128_vq() if system == "tatitok" else TiTok.l32()
    model, module = from_official(json.loads(metadata["config"]), published), loaded.module
    io = {key.removeprefix("io."): jnp.asarray(v) for key, v in tensors.items() if key.startswith("io.")}
    images, text = 2 * jnp.moveaxis(io["image"], 1, -1) - 1, io.get("text_guidance")

    def decoded(m, values):
        return m.decoder(values, (model.image_size,) * 2, False, **({} if text is None else {"text": text}))

    def shown(output):
        """Images or logits in the recorded layout."""
        pixels, features = output
        return grid(features["logits"]) if pixels is None else (first(pixels) + 1) / 2

    @jax.jit
    def run(variables):
        apply = lambda *args, **kwargs: module.apply(variables, *args, **kwargs)
        features, out = apply(images, method="features"), apply(images, text=text)
        found = {"latents": first(features)}
        if isinstance(model.quantizer, GaussianConfig):
            mean, log_variance = apply(features, method=lambda m, z: m.quantizer.moments(z))
            noise = jnp.swapaxes(io["noise"][:, :, 0], 1, 2)
            sample = mean + jnp.exp(0.5 * log_variance) * noise
            return found | {
                "mean": first(mean),
                "logvar": first(log_variance),
                "kl": kl_to_standard_normal(mean, log_variance),
                "sample": first(sample),
                "reconstruction_from_mean": (first(out.x_hat) + 1) / 2,
                "reconstruction_from_sample": shown(apply(sample, method=decoded)),
            }
        codes, losses = apply(images, method="encode").codes, out.quantized.losses
        found |= {
            "codes": jnp.swapaxes(codes, 1, 2),
            "quantized": first(out.quantized.values),
            "commitment_loss": losses["commitment"],
            "codebook_loss": losses["codebook"],
            "quantizer_loss": sum(losses.values()),
            "decoded_from_codes": shown(apply(codes, method=lambda m, c: decoded(m, m.embed(c)))),
        }
        if out.x_hat is not None:
            found["reconstruction"] = (first(out.x_hat) + 1) / 2
        if "logits" in out.features:
            found["decoder_logits"] = grid(out.features["logits"])
        if "soft_quantized" in io:
            codebook = variables["params"]["decoder"]["codebook"]
            found["soft_quantized"] = grid(soft_lookup(codebook, out.features["logits"]))
        if "stage1.loss" in io:
            proxy = jnp.mean(cross_entropy(out.features["logits"], io["stage1.target_codes"]))
            found["stage1.reconstruction_loss"] = proxy
            found["stage1.loss"] = proxy + sum(losses.values())
        if "train.cotangent" in io:
            cotangent = jnp.swapaxes(io["train.cotangent"][:, :, 0], 1, 2)

            def quantizer(params, z):
                out = module.quantizer.apply({"params": params}, z, train=True)
                return sum(out.losses.values()), jnp.vdot(out.values, cotangent)

            params = variables["params"]["quantizer"]
            by_params, by_z = jax.grad(lambda p, z: quantizer(p, z)[0], (0, 1))(params, features)
            found["train.grad_codebook_from_loss"] = by_params["codebook"]
            found["train.grad_latents_from_loss"] = first(by_z)
            routed = jax.grad(lambda z: quantizer(params, z)[1])(features)
            found["train.grad_latents_from_quantized"] = first(routed)
        return found

    found = run(loaded.variables)
    given = {"image", "text_guidance", "noise", "stage1.target_codes", "train.cotangent"}
    steps = {key for key in io if key.startswith("cvq.")}  # tests/quantize/test_cvq.py
    assert set(found) == set(io) - given - steps
    if "codes" in found:
        np.testing.assert_array_equal(found.pop("codes"), io["codes"])
    for key, value in found.items():
        np.testing.assert_allclose(value, io[key], atol=1e-4, err_msg=key)
    saved = convert.save(loaded)
    assert saved.keys() == {key for key in tensors if key.startswith("model.")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, tensors[key], err_msg=key)


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def sized(configuration):
    """The size that a row of the published counts is about: "TiTok-BL-64 VQ", "TA-TiTok-SL-128 VAE", ..."""
    name = configuration.lower().replace("ta-titok-", "").replace("titok-", "").split()
    method = "_".join([name[0].replace("-", ""), *name[1:]])
    return getattr(TATiTok if configuration.startswith("TA-") else TiTok, method)()


@pytest.mark.slow  # large models are traced
@pytest.mark.belongs_to("jaxtok.systems.image.titok", "jaxtok.systems.image.tatitok")
def test_published_sizes_have_the_published_numbers_of_parameters(shared):
    rows = json.loads(shared("goldens/parameter_counts.json").read_text())
    rows = [r for r in rows if r["system"] in ("titok", "tatitok") and r["component"].startswith("tokenizer")]
    assert len(rows) == 21
    count = functools.cache(lambda model, name: {k: elements(v) for k, v in params(model, name).items()})
    for row in rows:
        model = sized(row["configuration"])
        parts = count(model, "tokenizer" if row["component"] == "tokenizer" else "proxy")
        assert sum(parts.values()) == row["parameters"], row["configuration"]
        if row["frozen"]:  # in the second stage
            assert parts["encoder"] + parts["quantizer"] == row["frozen"], row["configuration"]


def params(model, name):
    return model.shapes_of(name)["params"]


@pytest.mark.parametrize("name", ["l32", "B64", "bl64-vq", "ll32-vae", "tiny"])
def test_sizes_have_names(name):
    assert titok(name) == getattr(TiTok, name.lower().replace("-", "_"))()


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match=r"no TiTok of size 'xl32'; there are tiny, s128"):
        titok("xl32")


CODES = dataclasses.replace(TINY, head="codes")
GAUSSIAN = dataclasses.replace(TINY, quantizer=GaussianConfig())


@pytest.mark.parametrize("model", [CODES, GAUSSIAN], ids=["codes", "gaussian"])
def test_the_parts_of_other_tiny_sizes_fit_together(model):
    images = jnp.zeros((2, model.image_size, model.image_size, model.channels), jnp.uint8)

    def everything(key):
        variables = model.tokenizer().init({"params": key}, images)
        latents = model.encode_images(variables, images)
        drawn = {}
        for name in PRIORS if model.space else model.priors:
            prior, condition = model.prior_named(name), model.class_condition(jnp.zeros(2, jnp.int32))
            drawn[name] = prior.sample(prior.init(key, latents, condition), condition, key).codes
        return latents, model.decode_images(variables, latents), drawn

    latents, decoded, drawn = jax.eval_shape(everything, jax.random.key(0))
    assert decoded.shape == images.shape and latents.values.shape == (2, model.tokens, model.width)
    if isinstance(model.quantizer, VQConfig):
        assert set(drawn) == set(PRIORS)
        assert all(codes.shape == latents.codes.shape == (2, model.tokens, 1) for codes in drawn.values())
        assert model.space == CodeSpace((model.quantizer.codes,))
    else:
        assert latents.codes is None and model.space is None and drawn == {}


@pytest.mark.parametrize("name", ["l32", "b64", "s128"])
def test_released_sizes_have_the_released_generators(name):
    generator, released = titok(name).generator(), getattr(TiTokMaskGIT, name)()
    assert dataclasses.replace(generator, remat=released.remat) == released
    assert titok(name).priors == ("masked",) and GAUSSIAN.priors == ()


def test_a_first_stage_makes_no_images():
    module, codes = CODES.proxy(), jnp.zeros((1, CODES.tokens, 1), jnp.int32)
    with pytest.raises(ValueError, match=r"makes \['logits'\] and no images"):
        jax.eval_shape(lambda v: module.apply(v, codes, method="decode"), CODES.shapes_of("proxy"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"patch": 3}, "patch=3 does not divide image_size=8"),
        ({"head": "codes", "decoder_patch": 4}, "must be the 2 pixels that a code of the teacher"),
        ({"pooled": (2, 2)}, "another number of tokens than tokens=8"),
        ({"head": "codes", "quantizer": GaussianConfig()}, "set head='pixels'"),
        ({"trained": ("masked", "masked")}, "must name some of"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_what_a_size_does_not_have_is_named():
    with pytest.raises(ValueError, match="has no first stage of proxy codes"):
        TINY.proxy()
    for name in PRIORS:
        with pytest.raises(ValueError, match="makes no codes that a prior could model"):
            GAUSSIAN.prior_named(name)
    with pytest.raises(ValueError, match="prior 'gan'"):
        TINY.prior_named("gan")


def test_official_arguments_become_our_sizes():
    vq = {
        "codebook_size": 8192,
        "token_size": 64,
        "use_l2_norm": False,
        "vit_enc_model_size": "base",
        "vit_dec_model_size": "large",
        "num_latent_tokens": 64,
        "finetune_decoder": False,
        "is_legacy": False,
    }
    official = {"model": {"vq_model": vq}, "dataset": {"preprocessing": {"crop_size": 256}}}
    settings = TiTok.l32().masked_settings  # of the prior the official arguments say nothing
    expected = dataclasses.replace(TiTok.bl64_vq(), masked_settings=settings)
    assert from_official(official, TiTok.l32()) == expected
    vq |= {"clustering_vq": True, "num_latent_tokens": 128}
    assert from_official(official, TATiTok.bl32_vq()) == TATiTok.bl128_vq()
    with pytest.raises(ValueError, match="finetune_decoder=True goes with"):
        from_official({"model": {"vq_model": {"is_legacy": False}}}, TiTok.l32())
    with pytest.raises(ValueError, match="image_size=64 contradicts crop_size, by which it is 256"):
        from_official({**official, "image_size": 64}, TiTok.l32())
    with pytest.raises(ValueError, match="quantize_mode='fsq'"):
        from_official({"model": {"vq_model": {"quantize_mode": "fsq"}}}, TiTok.l32())


def test_official_arguments_decide_the_parts():
    names = {}
    for word, config in OFFICIAL.items():
        model = from_official(config, TiTok.l32())
        assert model.encoder.width == 8 and model.decoder.layers == 2
        assert model.interleaved == (word == "two stages")
        names[word] = {name for entry in table(model).entries for name in entry.names}
    for name, words in (
        ("quantize.embed_prob", {"text"}),  # the official TiTok ignores `clustering_vq`
        ("decoder.text_guidance_proj.weight", {"text"}),
        ("pixel_decoder.conv_in.weight", {"two stages"}),
        ("pixel_decoder.mid.0.conv1.weight", {"two stages"}),
        ("pixel_decoder.mid.1.conv1.weight", set()),  # res_blocks is 1
    ):
        assert {word for word in OFFICIAL if name in names[word]} == words, name
