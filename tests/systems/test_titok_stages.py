import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import Latents
from jaxtok.keys import example_keys
from jaxtok.quantize.vq import VQConfig
from jaxtok.quantize.vq_losses import cross_entropy
from jaxtok.run.trained import Trained
from jaxtok.systems.image.titok import TiTok
from jaxtok.systems.image.titok_stages import FROZEN, DecoderTuning, ProxyImages, ProxyObjective
from jaxtok.systems.objectives import TokenizerWeights
from jaxtok.tokenizers.latent_vit import LatentViTShape
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from tests.filled import draw_like

VIT = LatentViTShape(8, 1, 2)
MODEL = dataclasses.replace(
    TiTok.tiny(),
    head="codes",
    tokens=3,
    encoder=VIT,
    decoder=VIT,
    quantizer=VQConfig(codes=6, metric="cosine", learning="cvq"),
    width=4,
)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
BATCH = {"image": jnp.asarray(IMAGES), "label": jnp.zeros(4, jnp.int32)}


@pytest.fixture(scope="module")
def frozen():
    proxy = draw_like(MODEL.shapes_of("proxy"), seed=1)
    return {
        "proxy": {**proxy, "quantizer": jax.tree.map(jnp.zeros_like, proxy["quantizer"])},  # no code was used
        "teacher": draw_like(MODEL.shapes_of("teacher"), seed=2),
    }


def test_the_first_stage_is_cross_entropy_and_the_losses_of_the_quantizer(frozen):
    objective = ProxyObjective(MODEL.proxy(), MODEL.teacher.encode_images, quantizer_weight=0.5)
    keys = example_keys(jax.random.key(0), 4)

    @jax.jit
    def run(variables, frozen):
        terms = objective.loss(variables, BATCH, frozen, keys, jnp.int32(0))
        out = MODEL.proxy().apply(variables, BATCH["image"], train=True, key=keys)
        codes = MODEL.teacher.encode_images(frozen["teacher"], BATCH["image"]).codes[..., 0]
        state = objective.update_collections({"quantizer": variables["quantizer"]}, terms.statistics, keys[0])
        return terms, out, codes, state

    terms, out, codes, state = run(frozen["proxy"], frozen)
    logits = out.features["logits"]
    assert out.x_hat is None and logits.shape == (4, 16, MODEL.teacher.codes)
    expected = jnp.mean(cross_entropy(logits, codes)) + 0.5 * sum(out.quantized.losses.values())
    np.testing.assert_allclose(terms.total, expected, rtol=1e-6)
    np.testing.assert_allclose(terms.metrics["accuracy"], np.mean(np.argmax(logits, -1) == codes))
    counts, moved = terms.statistics["counts"], state["quantizer"]["quantizer"]
    np.testing.assert_allclose(moved["usage"], 0.01 * counts / counts.sum(), rtol=1e-5)
    offset = np.abs(moved["offset"]).max(-1)
    assert (offset[np.asarray(counts) == 0] > 0.01).all() and offset[np.argmax(counts)] < 0.01


@pytest.mark.slow  # compiles the gradient of a convolutional decoder
def test_the_second_stage_moves_the_decoder_alone(frozen):
    objective = DecoderTuning(MODEL.tokenizer(), TokenizerWeights("l2"))
    update = gradient(objective, TrainConfig(steps=10, learning_rate=1e-2, warmup_steps=0, groups=FROZEN))

    @jax.jit
    def step(frozen):
        state = update.init(jax.random.key(0), BATCH, frozen)
        return state, update(state, BATCH, frozen, jax.random.key(1))[0]

    before, after = step(frozen)
    first, teacher = frozen["proxy"]["params"], frozen["teacher"]["params"]
    decoder = before["params"]["decoder"]
    for mine, origin in (
        (before["params"]["encoder"], first["encoder"]),
        (after["params"]["encoder"], first["encoder"]),
        (after["params"]["quantizer"], first["quantizer"]),
        (after["quantizer"], frozen["proxy"]["quantizer"]),
        (decoder["predictor"], first["decoder"]["predictor"]),
        (decoder["pixels"], teacher["decoder"]),
        (decoder["codebook"], teacher["quantizer"]["codebook"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, mine, origin)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), before["params"]["decoder"], after["params"]["decoder"]
    )
    assert all(jax.tree.leaves(moved))


def test_a_first_stage_is_shown_by_the_teachers_decoder(frozen):
    shown = ProxyImages(MODEL)
    variables = {"own": frozen["proxy"], "teacher": frozen["teacher"]}
    whole = jax.eval_shape(lambda: DecoderTuning(MODEL.tokenizer()).init(jax.random.key(0), BATCH, frozen))
    assert jax.tree.structure(whole["params"]) == jax.tree.structure(MODEL.shapes_of("tokenizer")["params"])
    params = {
        **frozen["proxy"]["params"],
        "decoder": {
            "predictor": frozen["proxy"]["params"]["decoder"]["predictor"],
            "codebook": frozen["teacher"]["params"]["quantizer"]["codebook"],
            "pixels": frozen["teacher"]["params"]["decoder"],
        },
    }
    codes = jnp.asarray(np.random.default_rng(1).integers(0, 6, (2, 3, 1)))

    @jax.jit
    def run(variables, params):
        drawn = MODEL.decode_images({**variables["own"], "params": params}, codes)
        return (
            shown.decode_images(variables, Latents(codes=codes)),
            shown.encode_images(variables, BATCH["image"]).codes,
            drawn,
        )

    images, found, drawn = run(variables, params)
    np.testing.assert_allclose(images, drawn, atol=1e-5)
    assert found.shape == (4, 3, 1) and shown.space == MODEL.space


def test_stages_depend_on_where_the_teacher_comes_from():
    assert MODEL.stages == ("teacher", "proxy", "tokenizer", "masked")
    assert TiTok.tiny().stages == ("tokenizer", "masked")
    published = dataclasses.replace(TiTok.l32(), teacher_path="vqgan.safetensors")
    assert published.stages == ("proxy", "tokenizer", "masked")
    network = published.teacher_networks()["teacher"]
    assert "decoder" in network.shapes()["params"] and MODEL.teacher_networks() == {}


def test_classes_are_drawn_by_number():
    system = Trained(MODEL, {"masked": {"params": {}}})
    with pytest.raises(ValueError, match=r"\['ten'\] are none; give numbers from 0 to 9"):
        system.sample(["3", "ten"], "masked")
