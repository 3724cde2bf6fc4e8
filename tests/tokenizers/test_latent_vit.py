import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantize.soft_assignment import soft_lookup
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.tokenizers.image_tokenizer import ImageTokenizer
from jaxtok.tokenizers.latent_vit import LatentDecoder, LatentEncoder, LatentViTShape, interleave, pool
from jaxtok.tokenizers.patch_mlp import PatchDecoder
from jaxtok.tokenizers.proxy import ProxyDecoder, initialise_from
from tests.filled import filled, normal

SHAPE = LatentViTShape(8, 2, 2)
TOKENS, TEXT = 3, 4
ENCODER = LatentEncoder(SHAPE, TOKENS, (2, 2), 2, features=5)
DECODER = LatentDecoder(SHAPE, (2, 2), 2, text_length=TEXT)
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)), jnp.uint8)
WORDS = normal(4, TEXT, 6, seed=3)


def build(encoder: Any = ENCODER, decoder: Any = DECODER) -> Any:
    return ImageTokenizer(encoder, VectorQuantizer(7, 5, metric="cosine"), decoder, (4, 4))


@pytest.fixture(scope="module")
def model():
    """The tokenizer, its variables and a compiled call: (images, text) -> reconstruction and its gradient."""
    module = build()
    variables = filled(module, IMAGES, text=WORDS)

    def loss(params, images, text):
        out = module.apply({"params": params}, images, True, text=text)
        return jnp.mean(jnp.square(out.x_hat - 0.1)) + sum(out.quantized.losses.values()), out

    run = jax.jit(jax.grad(loss, has_aux=True))
    return module, variables, lambda images, text: run(variables["params"], images, text)


def test_interleaving_reads_memory_as_if_it_were_transposed():
    x = normal(2, 3, 4)
    flat = np.asarray(x).reshape(2, -1)
    slots, channels = np.meshgrid(np.arange(3), np.arange(4), indexing="ij")
    np.testing.assert_array_equal(interleave(x), flat[:, channels * 3 + slots])


def test_pooling_takes_the_mean_of_the_patches_under_a_token():
    x = jnp.arange(8.0).reshape(1, 8, 1)  # two rows of four
    np.testing.assert_array_equal(
        pool(x, (2, 4), (1, 2))[0, :, 0], [(0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4]
    )
    with pytest.raises(ValueError, match="2x4 patches cannot be pooled to 1x3"):
        pool(x, (2, 4), (1, 3))
    shapes = jax.eval_shape(
        ENCODER.clone(tokens=2, pooled=(1, 2)).init, jax.random.key(0), jnp.zeros((1, 4, 4, 3))
    )["params"]
    assert "latents" not in shapes and "latent_positions" not in shapes["tokens"]


def test_interleaved_slots_mix_latents():
    images = 2.0 * IMAGES / 255 - 1
    run = jax.jit(lambda v: [ENCODER.clone(interleaved=flag).apply(v, images) for flag in (False, True)])
    plain, mixed = run(filled(ENCODER, images))
    assert np.abs(plain - mixed).max() > 1e-3


def test_a_reconstruction_belongs_to_its_image(model):
    _, _, run = model
    order = np.array([2, 0, 3, 1])
    gradients, out = run(IMAGES, WORDS)
    _, moved = run(IMAGES[order], WORDS[order])
    assert out.x_hat.shape == IMAGES.shape and out.x_hat.dtype == jnp.float32
    np.testing.assert_array_equal(moved.quantized.codes, np.asarray(out.quantized.codes)[order])
    np.testing.assert_allclose(moved.x_hat, np.asarray(out.x_hat)[order], atol=1e-5)
    # Everything is trained; only keys have biases that softmax does not see.
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        assert np.any(np.abs(gradient) > 1e-12) or "key" in name, name


def test_the_text_is_read(model):
    _, _, run = model
    _, out = run(IMAGES, WORDS)
    _, other = run(IMAGES, jnp.roll(WORDS, 1, axis=0))
    np.testing.assert_array_equal(out.quantized.codes, other.quantized.codes)
    assert np.abs(out.x_hat - other.x_hat).max() > 1e-3


def test_evaluation_is_encode_then_decode(model):
    module, variables, run = model

    @jax.jit
    def again(variables):
        latents = module.apply(variables, IMAGES, method="encode")
        return module.apply(variables, latents, text=WORDS, method="decode")

    decoded = again(variables)
    np.testing.assert_allclose(decoded, run(IMAGES, WORDS)[1].x_hat, atol=1e-5)


def test_proxy_codes_become_pixels_through_their_mean():
    predictor = dataclasses.replace(DECODER, head="codes", codes=6, text_length=0)
    whole: Any = ProxyDecoder(predictor, PatchDecoder(2, 8), codes=6, width=3)
    latents = normal(2, TOKENS, 5)
    first: Any = ProxyDecoder(predictor)
    decoder: Any = PatchDecoder(2, 8)

    @jax.jit
    def run(variables):
        params = variables["params"]
        images, features = whole.apply(variables, latents, (4, 4))
        values = soft_lookup(params["codebook"], features["logits"])
        drawn, _ = decoder.apply({"params": params["pixels"]}, values, (4, 4))
        alone = first.apply({"params": {"predictor": params["predictor"]}}, latents, (4, 4))
        # A sure prediction is a look-up.
        sure = soft_lookup(params["codebook"], 1e4 * jax.nn.one_hot(jnp.asarray([[4, 0]]), 6))
        return images, drawn, features["logits"], alone, sure

    variables = filled(whole, latents, (4, 4))
    images, drawn, logits, (nothing, alone), sure = run(variables)
    np.testing.assert_allclose(images, drawn, atol=1e-5)
    assert nothing is None
    np.testing.assert_array_equal(alone["logits"], logits)
    np.testing.assert_allclose(sure[0], variables["params"]["codebook"][jnp.asarray([4, 0])], atol=1e-6)


def test_a_second_stage_is_initialised_from_the_first_and_the_teacher():
    predictor = dataclasses.replace(DECODER, head="codes", codes=6, text_length=0)
    first = filled(build(decoder=ProxyDecoder(predictor)), IMAGES, seed=1)["params"]
    whole = filled(build(decoder=ProxyDecoder(predictor, PatchDecoder(2, 8), 6, 3)), IMAGES, seed=2)["params"]
    teacher = {"quantizer": {"codebook": normal(6, 3)}, "decoder": whole["decoder"]["pixels"], "encoder": {}}
    initialised = initialise_from(whole, first, teacher)
    assert (
        initialised["encoder"] is first["encoder"] and initialised["decoder"]["pixels"] is teacher["decoder"]
    )
    assert initialised["decoder"]["codebook"] is teacher["quantizer"]["codebook"]
    with pytest.raises(ValueError, match="must come from one configuration"):
        initialise_from(whole, first, {**teacher, "quantizer": {"codebook": normal(6, 4)}})


def test_mistakes_are_named(model):
    module, variables, _ = model

    def shapes(*args, **kwargs):
        jax.eval_shape(lambda v: module.apply(v, *args, **kwargs), variables)

    with pytest.raises(ValueError, match="images of 6x4: positions are learned for 2x2 patches of 2 pixels"):
        shapes(jnp.zeros((1, 6, 4, 3), jnp.uint8), method="encode")
    with pytest.raises(ValueError, match=r"images of 4x8.*resize to 4x4"):
        shapes(jnp.zeros((1, TOKENS, 1), jnp.int32), (4, 8), method="decode")
    with pytest.raises(ValueError, match="reads text_length=4 text tokens, but none was given"):
        shapes(IMAGES)
    with pytest.raises(ValueError, match="reads text_length=0 text tokens, but 4 were given"):
        silent = build(decoder=dataclasses.replace(DECODER, text_length=0))
        jax.eval_shape(lambda: silent.init(jax.random.key(0), IMAGES, text=WORDS))
    with pytest.raises(ValueError, match="width=8 does not divide into heads=3"):
        LatentViTShape(8, 2, 3)
    with pytest.raises(ValueError, match="no ViT of size 'huge'; there are small, base, large"):
        LatentViTShape.named("huge")
