import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.keys import example_keys
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.quantize.vq import VQConfig
from jaxtok.run.trained import Trained
from jaxtok.systems.image.tatitok import TATiTok
from jaxtok.systems.objectives import TokenizerObjective, TokenizerWeights
from jaxtok.tokenizers.latent_vit import LatentViTShape
from tests.filled import draw_like
from tests.systems.test_titok import official_config

VIT = LatentViTShape(8, 1, 2)
MODEL = dataclasses.replace(
    TATiTok.scenes(),
    image_size=16,
    encoder=VIT,
    decoder=VIT,
    quantizer=VQConfig(codes=6, learning="cvq"),
    width=4,
    text_length=10,
)

# Configurations of small official models, for `test_every_system.py`.
OFFICIAL = {
    "quantized": official_config("vq", legacy=False, text=True),
    "Gaussian": official_config("vae", legacy=False, text=True),
}
IDS, MASK = caption_ids(["red", "a blue one"], 10, "")
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)),
    "text": jnp.asarray(IDS),
    "text_mask": jnp.asarray(MASK),
}


def test_captions_reach_the_decoder():
    objective = TokenizerObjective(MODEL.tokenizer(), TokenizerWeights("l2"), text=MODEL.decoder_condition)
    keys = example_keys(jax.random.key(0), 2)
    fresh = jax.eval_shape(lambda: objective.init(jax.random.key(0), BATCH, {}))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, MODEL.shapes_of("tokenizer"))

    @jax.jit
    def run(variables, batch):
        codes = MODEL.encode_images(variables, batch["image"])
        decoded = MODEL.decode_images(variables, codes, text=MODEL.decoder_condition(batch, {}))
        return objective.loss(variables, batch, {}, keys, jnp.int32(0)).outputs["fake"], decoded

    variables = draw_like(MODEL.shapes_of("tokenizer"))
    images, decoded = run(variables, BATCH)
    np.testing.assert_allclose(decoded, images, atol=1e-5)
    other = run(variables, {**BATCH, "text": BATCH["text"].at[1, 3].add(1)})[0]
    assert np.any(other[1] != images[1])
    np.testing.assert_array_equal(other[0], images[0])
    behind = run(variables, {**BATCH, "text": BATCH["text"].at[0, 5].add(1)})[0]  # behind the end of "red"
    np.testing.assert_allclose(behind, images, atol=1e-6)


def test_without_text_nothing_is_read():
    silent = dataclasses.replace(MODEL, text_length=0)
    assert silent.decoder_condition({}, {}) is None
    assert "text" not in silent.shapes_of("tokenizer")["params"]["decoder"]


def test_text_of_another_kind_is_named():
    features = dataclasses.replace(MODEL, text_source="features")
    with pytest.raises(ValueError, match="set text_source='bytes' to train on captions"):
        features.decoder_condition(BATCH, {})
    with pytest.raises(ValueError, match=r"the batches have none; set --data\.text-length"):
        MODEL.decoder_condition({"image": BATCH["image"]}, {})
    codes, given = jnp.zeros((2, 2, 1), jnp.int32), MODEL.caption_condition(BATCH["text"], BATCH["text_mask"])
    for model, text, message in (
        (features, given, "reads text as features, got Condition"),
        (MODEL, jnp.zeros((2, 10, 768)), "reads text as a `Condition`, got"),
    ):
        variables = model.shapes_of("tokenizer")
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda v, m=model, t=text: m.decode_images(v, codes, text=t), variables)


def test_a_system_decodes_with_captions_or_says_that_nothing_reads_them():
    model = dataclasses.replace(MODEL, image_size=8, patch=8, decoder_patch=8)
    system = Trained(model, {"tokenizer": draw_like(model.shapes_of("tokenizer"))})
    codes = np.zeros((2, model.tokens, 1), np.int32)
    red, blue = (system.decode(codes, captions=[text, text]) for text in ("red", "a blue one"))
    assert red.shape == (2, 8, 8, 3) and np.any(red != blue)
    with pytest.raises(ValueError, match="reads text_length=10"):
        system.decode(codes)
    plain = dataclasses.replace(model, text_length=0)
    with pytest.raises(ValueError, match="this decoder reads no captions; leave them out"):
        Trained(plain, {"tokenizer": {}}).decode(codes, captions=["a", "b"])
