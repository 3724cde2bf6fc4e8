import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.systems.image.llamagen import LlamaGen, from_official
from jaxtok.weights import read_tensors
from tests.filled import draw_like

TINY = LlamaGen.tiny()


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


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


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
        latents = TINY.encode(variables, images)
        return latents.codes, TINY.decode(variables, latents), TINY.decode(variables, latents.codes)

    codes, decoded, again = run(variables)
    assert codes.shape == (2, TINY.tokens, 1) and decoded.shape == images.shape
    np.testing.assert_array_equal(decoded, again)
    np.testing.assert_array_equal(run(scaled)[0], codes)
    np.testing.assert_allclose(run(scaled)[1], decoded, atol=1e-5)
    assert dataclasses.replace(TINY, unit_codes=False).tokenizer().quantizer.metric == "euclidean"
