"""CLIP. The comparison with `transformers` needs it and PyTorch (extra `bench`)."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.clip import Clip, clip_shapes, clip_table, load_clip
from jaxtok.nn.clip_config import ClipConfig, ClipTower
from jaxtok.nn.clip_text import ClipTextConfig
from jaxtok.weights import save_table, write_tensors

TINY = ClipConfig(ClipTower(16, 2, 2, 24), ClipTextConfig(30, 7, 3, 3, 12, 20, 10), image_size=8, patch=4)
END = 29


def official(config):
    """config.json of a model."""

    names = {"gelu_quick": "quick_gelu", "gelu_exact": "gelu"}

    def sizes(own, activation, epsilon, **rest):
        return {
            "hidden_size": own.width,
            "num_hidden_layers": own.layers,
            "num_attention_heads": own.heads,
            "intermediate_size": own.hidden,
            "hidden_act": names[activation],
            "layer_norm_eps": epsilon,
            **rest,
        }

    vision, text = config.vision, config.text
    return {
        "model_type": "clip",
        "projection_dim": text.projection,
        "vision_config": sizes(
            vision,
            vision.activation,
            vision.norm_epsilon,
            image_size=config.image_size,
            patch_size=config.patch,
        ),
        "text_config": sizes(
            text,
            text.feed_forward,
            text.epsilon,
            vocab_size=text.vocab,
            max_position_embeddings=text.length,
            eos_token_id=END,
        ),
    }


def random_variables(config, seed=0):
    """Every leaf random, so that a forgotten scale or bias shows; mean one for scales, else zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        return rng.normal(path[-1].key == "scale", 0.3, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, clip_shapes(config))


def write_checkpoint(folder, config, variables):
    """A folder in Hugging Face format; returns its tensors."""
    positions = {
        f"{name}_model.embeddings.position_ids": np.zeros((1, 5), np.int64) for name in ("text", "vision")
    }
    tensors = save_table(clip_table(config), variables["params"], positions)
    write_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(official(config)))
    return tensors


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    ids = np.array([[28, 5, 7, 29, 0, 0, 0], [28, 3, 29, 1, 1, 29, 1], [28, 4, 4, 4, 4, 4, 29]], np.int32)
    mask = np.arange(7) < np.array([[4], [3], [7]])
    return rng.normal(size=(2, 8, 8, 3)).astype(np.float32), ids, mask


@pytest.fixture(scope="module")
def logits():
    """One compiled call for all tests of a configuration."""
    return jax.jit(Clip(TINY).apply)


def test_a_folder_is_read_back(tmp_path, variables):
    write_checkpoint(tmp_path, TINY, variables)
    module, loaded, config = load_clip(tmp_path)
    assert config == module.config == TINY
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_loading_is_strict(tmp_path, variables):
    tensors = write_checkpoint(tmp_path, TINY, variables)
    del tensors["vision_model.pre_layrnorm.bias"]
    tensors["text_model.encoder.layers.3.mlp.fc1.bias"] = np.zeros(20, np.float32)
    tensors["visual_projection.weight"] = np.zeros((9, 16), np.float32)
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        load_clip(tmp_path)
    for named in ("pre_layrnorm.bias", "layers.3.mlp.fc1.bias", "visual_projection.weight"):
        assert named in str(error.value)


def test_what_follows_the_end_does_not_matter(inputs, logits, variables):
    pixels, ids, mask = inputs
    changed = ids.copy()
    changed[0, 4:], changed[1, 3:] = [9, 8, 7], [2, 2, 2, 2]
    found = logits(variables, pixels, ids, mask)
    assert found.shape == (2, 3)
    np.testing.assert_array_equal(found, logits(variables, pixels, changed, mask))
    assert not np.allclose(found, logits(variables, pixels, np.where(ids == 5, 6, ids), mask))


def test_sizes_that_do_not_fit_are_refused(inputs, variables):
    pixels, ids, mask = inputs
    with pytest.raises(ValueError, match="takes 8x8"):
        jax.eval_shape(Clip(TINY).apply, variables, pixels[:, :4], ids, mask)
    with pytest.raises(ValueError, match="cut them"):
        jax.eval_shape(Clip(TINY).apply, variables, pixels, np.tile(ids, 2), np.tile(mask, 2))


def test_configurations():
    sizes = {"vit_b32": 151_277_313, "vit_b16": 149_620_737, "vit_l14": 427_616_513}
    for name, count in sizes.items():
        config = getattr(ClipConfig, name)()
        assert sum(leaf.size for leaf in jax.tree.leaves(clip_shapes(config))) == count, name
        assert ClipConfig.from_hugging_face(official(config)) == config
    assert ClipConfig.from_hugging_face({"model_type": "clip"}) == ClipConfig.vit_b32()
    with pytest.raises(ValueError, match="is not CLIP"):
        ClipConfig.from_hugging_face({"model_type": "siglip"})
    wrong = official(TINY)
    wrong["vision_config"]["hidden_act"] = "relu"
    with pytest.raises(ValueError, match="hidden_act='relu'"):
        ClipConfig.from_hugging_face(wrong)
    with pytest.raises(ValueError, match="does not divide image_size"):
        dataclasses.replace(TINY, patch=3)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu_quick", "gelu_exact"])
def test_equals_transformers(tmp_path, inputs, activation):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    towers = {
        "vision": dataclasses.replace(TINY.vision, activation=activation),
        "text": dataclasses.replace(TINY.text, feed_forward=activation),
    }
    config = dataclasses.replace(TINY, **towers)
    # Its own state dict, so that the names are those of the official class.
    reference = transformers.CLIPModel(transformers.CLIPConfig(**official(config))).eval()
    rng = np.random.default_rng(1)
    state = {
        name: rng.normal("norm.weight" in name or "norm1.weight" in name, 0.3, tensor.shape).astype(
            np.float32
        )
        for name, tensor in reference.state_dict().items()
    }
    reference.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    write_tensors(tmp_path / "model.safetensors", state)
    (tmp_path / "config.json").write_text(json.dumps(official(config)))
    module, variables, _ = load_clip(tmp_path)

    pixels, ids, mask = inputs
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2))
        )
    methods = {"image_features": (pixels,), "text_features": (ids, mask)}
    images, texts, logits = jax.jit(
        lambda v: (
            *(module.apply(v, *map(jnp.asarray, x), method=name) for name, x in methods.items()),
            module.apply(v, *map(jnp.asarray, inputs)),
        )
    )(variables)
    for mine, theirs in ((images, expected.image_embeds), (texts, expected.text_embeds)):
        np.testing.assert_allclose(mine / np.linalg.norm(mine, axis=-1, keepdims=True), theirs, atol=1e-5)
    np.testing.assert_allclose(logits, expected.logits_per_image, atol=1e-4)
