import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.llama import LlamaEncoder
from jaxtok.nn.llama_config import Llama3Scaling, LlamaConfig
from tests.nn.tiny_llama import FAMILIES, OFFICIAL, TINY, random_variables


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request):
    module = LlamaEncoder(FAMILIES[request.param])
    return module, random_variables(module)


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(0, 50, (2, 5)).astype(np.int32)


# -- The network ---------------------------------------------------------------------------------------


def test_padding_does_not_change_the_real_tokens(encoder, ids):
    module, variables = encoder
    apply = jax.jit(module.apply)
    plain = apply(variables, ids)
    assert plain.shape == (3, 2, 5, 16)
    for before, after in ((3, 0), (0, 3)):
        padded = np.pad(ids, ((0, 0), (before, after)), constant_values=7)
        mask = np.pad(np.ones_like(ids, bool), ((0, 0), (before, after)))
        out = apply(variables, padded, mask)
        np.testing.assert_allclose(out[:, :, before : before + 5], plain, atol=1e-5)
        assert np.isfinite(out).all()


def test_a_token_does_not_see_later_ones_and_sees_earlier_ones(encoder, ids):
    module, variables = encoder
    changed = ids.copy()
    changed[:, 3] = (changed[:, 3] + 1) % 50
    apply = jax.jit(module.apply)
    difference = np.abs(apply(variables, changed) - apply(variables, ids)).max(axis=(0, 1, 3))
    assert (difference[:3] == 0).all() and (difference[3:] > 1e-4).all()


def test_layers_are_scanned(encoder):
    module, variables = encoder
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(variables["params"]["stack"]))

    def equations(layers):
        deep = module.clone(config=dataclasses.replace(module.config, layers=layers))
        return len(jax.make_jaxpr(deep.apply)(random_variables(deep), jnp.zeros((1, 2), jnp.int32)).eqns)

    assert equations(3) == equations(7)


def test_key_heads_are_shared_by_groups_of_query_heads(ids):
    grouped = LlamaEncoder(TINY)
    full = LlamaEncoder(dataclasses.replace(TINY, key_heads=4))
    variables = random_variables(grouped)
    attention = variables["params"]["stack"]["block"]["attention"]
    repeated = {
        name: {
            "kernel": np.repeat(attention[name]["kernel"].reshape(3, 16, 2, 4), 2, axis=2).reshape(3, 16, 16)
        }
        for name in ("key", "value")
    }
    block = variables["params"]["stack"]["block"] | {"attention": attention | repeated}
    same = {"params": variables["params"] | {"stack": {"block": block}}}
    np.testing.assert_allclose(
        jax.jit(full.apply)(same, ids), jax.jit(grouped.apply)(variables, ids), atol=1e-5
    )


def test_bfloat16_comes_near_float32(encoder, ids):
    module, variables = encoder
    half = jax.jit(module.clone(dtype=jnp.bfloat16).apply)(variables, ids)
    full = np.asarray(jax.jit(module.apply)(variables, ids))
    assert half.dtype == jnp.bfloat16
    assert np.abs(half.astype(jnp.float32) - full).max() < 0.05 * np.abs(full).max()


def test_the_stretch_of_wavelengths_keeps_short_ones_and_multiplies_long_ones():
    scaling = Llama3Scaling(factor=8.0, low_factor=1.0, high_factor=4.0, context=100)
    frequencies = 2 * np.pi / np.array([10.0, 25.0, 40.0, 100.0, 1000.0])
    wavelengths = 2 * np.pi / scaling.apply(frequencies)
    np.testing.assert_allclose(wavelengths[[0, 1, 3, 4]], [10, 25, 800, 8000])
    # 2.5 periods lie half way between 1 and 4: the frequency is the mean of both.
    np.testing.assert_allclose(wavelengths[2], 2 / (1 / 40 + 1 / 320))


# -- Configurations ------------------------------------------------------------------------------------


def test_configurations_of_both_spellings(tmp_path):
    assert LlamaConfig.from_hugging_face(OFFICIAL) == TINY
    (tmp_path / "config.json").write_text(json.dumps(OFFICIAL))
    assert LlamaConfig.from_hugging_face(tmp_path / "config.json") == TINY
    values = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    scaled = dataclasses.replace(TINY, rope_theta=5e5, rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 64))
    old = OFFICIAL | {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **values}}
    new = OFFICIAL | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **values}}
    del new["rope_theta"]
    assert LlamaConfig.from_hugging_face(old) == LlamaConfig.from_hugging_face(new) == scaled
    olmo = LlamaConfig.from_hugging_face(
        {**OFFICIAL, "model_type": "olmo", "clip_qkv": 8.0, "num_key_value_heads": None}
    )
    assert olmo == dataclasses.replace(TINY, family="olmo", clip=8.0, norm_epsilon=1e-5, key_heads=4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gpt2"}, "model_type='gpt2'"),
        ({"hidden_size": None}, "lacks .'hidden_size'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "key_heads=3 does not divide heads=4"),
        ({"head_dim": 3}, "head_dim=3 is odd"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig.from_hugging_face({**OFFICIAL, **change})


def test_unknown_family():
    # ValueError from the configuration, or already from the check of annotations in tests.
    with pytest.raises((ValueError, TypeError), match="gpt2"):
        dataclasses.replace(TINY, family="gpt2")
