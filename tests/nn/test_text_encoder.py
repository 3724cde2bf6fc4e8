"""Checkpoints and captions. The comparison with `transformers` needs it and PyTorch (extra `bench`)."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.conditioning import LayerwiseConditioner
from jaxtok.nn.llama import LlamaEncoder
from jaxtok.nn.text_encoder import encode_captions, load_text_encoder
from jaxtok.weights import write_tensors
from tests.nn.tiny_llama import FAMILIES, TINY, random_variables, write_checkpoint


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request):
    module = LlamaEncoder(FAMILIES[request.param])
    return module, random_variables(module)


@pytest.mark.parametrize("prefix, shards", [("model.", 1), ("", 1), ("model.", 2)])
def test_loading_a_folder(tmp_path, encoder, prefix, shards):
    write_checkpoint(tmp_path, encoder, prefix, shards)
    module, variables, config = load_text_encoder(tmp_path)
    # OLMo 1 cannot state an epsilon; its norm has a fixed one.
    expected = dataclasses.replace(encoder[0].config, norm_epsilon=config.norm_epsilon)
    assert config == module.config == expected
    jax.tree.map(np.testing.assert_array_equal, variables, encoder[1])


def test_loading_in_half_precision(tmp_path, encoder):
    write_checkpoint(tmp_path, encoder)
    module, variables, _ = load_text_encoder(tmp_path, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
        np.dtype(jnp.bfloat16)
    } and module.dtype == jnp.bfloat16


def test_loading_is_strict(tmp_path):
    module = LlamaEncoder(TINY)
    tensors = write_checkpoint(tmp_path, (module, random_variables(module)))
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(16, np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((5, 16), np.float32)
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        load_text_encoder(tmp_path)
    for named in (
        "layers.1.self_attn.q_proj.weight",
        "layers.0.self_attn.q_proj.bias",
        "layers.2.mlp.up_proj.weight",
    ):
        assert named in str(error.value)


# -- Captions ------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tiny model and a tokenizer of words."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[unk]", "[pad]", "[end]", "a", "red", "blue", "square"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unk]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    module = LlamaEncoder(TINY)
    write_checkpoint(tmp_path, (module, random_variables(module)))
    return tmp_path


def test_captions_condition_a_prior_layer_by_layer(checkpoint):
    module, variables, _ = load_text_encoder(checkpoint)
    texts = ["a red square", "blue", "a a a a a a"]
    condition = encode_captions(module, variables, checkpoint, texts, length=4, batch_size=2)
    assert condition.batch == 3 and condition.features.shape == (3, 3, 4, 16)
    np.testing.assert_array_equal(condition.mask, [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
    # Without padding.
    alone = jax.jit(lambda v: [module.apply(v, jnp.array([ids])) for ids in ([3, 4, 6], [2])])
    expected, empty = alone(variables)
    np.testing.assert_allclose(condition.features[:, :1, 1:], expected, atol=1e-5)
    np.testing.assert_allclose(condition.null.features[:, :, 3:], empty, atol=1e-5)
    np.testing.assert_array_equal(condition.null.mask, [[0, 0, 0, 1]])
    features, mask = LayerwiseConditioner().apply({}, condition.unconditional())
    assert features.shape == (3, 3, 4, 16) and mask.shape == (3, 4)
    dropped = condition.select(jnp.array([False, True, False]))
    np.testing.assert_array_equal(dropped.features[:, 1], condition.null.features[:, 0])


def test_a_tokenizer_of_another_model_is_refused(checkpoint):
    small = LlamaEncoder(dataclasses.replace(TINY, vocab=5))
    with pytest.raises(ValueError, match="yields token 6, the model knows 5"):
        encode_captions(small, random_variables(small), checkpoint, ["square"], length=4)


# -- Against transformers ------------------------------------------------------------------------------

VALUES = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "llama": ("Llama", {"rms_norm_eps": 1e-5}),
    "llama, biases and wide heads": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama 3": ("Llama", {"rope_parameters": {"rope_theta": 5e5, **VALUES}, "tie_word_embeddings": True}),
    "olmo": ("Olmo", {"num_key_value_heads": 4}),
    "olmo, clipped": (
        "Olmo",
        {"clip_qkv": 0.2, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "olmo 2": ("Olmo2", {"rms_norm_eps": 1e-6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_hidden_states_equal_those_of_transformers(case, tmp_path):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are only a reference here
        transformers = pytest.importorskip("transformers")
        name, options = CASES[case]
        sizes = {
            "vocab_size": 50,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "pad_token_id": 1,
        }
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(
            getattr(transformers, f"{name}Config")(**sizes | options)
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # fresh norms and biases are ones and zeros
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
        model.save_pretrained(tmp_path)
        ids = np.random.default_rng(0).integers(2, 50, (3, 20))
        mask = np.arange(20) >= np.array([[0], [7], [19]])
        with torch.no_grad():
            official = model(
                input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(mask.astype(np.int64)),
                output_hidden_states=True,
            ).hidden_states[1:]
    module, variables, _ = load_text_encoder(tmp_path)
    ours = np.asarray(jax.jit(module.apply)(variables, ids.astype(np.int32), mask))
    theirs = np.stack([layer.numpy() for layer in official])
    assert np.isfinite(ours).all() and np.abs(theirs[:, mask]).max() > 0.5
    difference = np.abs(ours - theirs)[:, mask].max()
    print(f"{case}: largest difference {difference:.1e}")
    assert difference < 1e-4, f"{case}: {difference}"
