import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.clip_text import ClipText, ClipTextConfig, clip_text_shapes, clip_text_table, load_clip_text
from jaxtok.weights import save_table, write_tensors
from tests.filled import draw_like

CONFIG = ClipTextConfig(30, 8, 3, 2, 12, 20, 10)
HUGGING_FACE = {
    "projection_dim": 10,
    "text_config": {
        "vocab_size": 30,
        "max_position_embeddings": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "hidden_size": 12,
        "intermediate_size": 20,
        "hidden_act": "quick_gelu",
    },
}
VARIABLES = {"params": jax.tree.map(np.asarray, draw_like(clip_text_shapes(CONFIG)["params"]))}
# Begin 28, end 29; one text is short.
IDS = np.array([[28, 4, 7, 9, 3, 29], [28, 5, 29, 0, 0, 0]], np.int32)
MASK = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def encode():
    return jax.jit(lambda ids, mask: ClipText(CONFIG).apply(VARIABLES, ids, mask))


def test_padding_may_stand_on_either_side(encode):
    features = encode(IDS, MASK)
    shifted = encode(np.stack([IDS[0], np.roll(IDS[1], 3)]), np.stack([MASK[0], np.roll(MASK[1], 3)]))
    for a, b in zip(features, shifted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Causal: what stands behind the end changes nothing of the whole text.
    other = encode(np.where(MASK, IDS, 6), MASK)
    np.testing.assert_allclose(features.pooled, other.pooled, atol=1e-6)


def test_a_checkpoint_of_the_whole_clip_loads(encode, tmp_path):
    state = save_table(clip_text_table(CONFIG), VARIABLES["params"], {})
    state |= {"vision_model.embeddings.class_embedding": np.zeros(3, np.float32), "logit_scale": np.zeros(1)}
    write_tensors(tmp_path / "model.safetensors", state)
    (tmp_path / "config.json").write_text(json.dumps(HUGGING_FACE))
    config, variables = load_clip_text(tmp_path)
    assert config == CONFIG and ClipTextConfig.from_hugging_face({}) == ClipTextConfig()
    jax.tree.map(np.testing.assert_array_equal, variables, VARIABLES)
    with pytest.raises(ValueError, match="hidden_act='relu'"):
        ClipTextConfig.from_hugging_face({"hidden_act": "relu"})
    with pytest.raises(ValueError, match="texts of 9 tokens, this CLIP reads at most 8"):
        jax.eval_shape(encode, jnp.zeros((1, 9), jnp.int32), jnp.ones((1, 9), bool))


@pytest.mark.slow  # parity
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_transformers_gives_the_same(activation):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = {**HUGGING_FACE["text_config"], "hidden_act": activation, "projection_dim": 10, "eos_token_id": 29}
    theirs = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text)).eval()
    config = ClipTextConfig.from_hugging_face(text)
    assert config == dataclasses.replace(
        CONFIG, feed_forward={"gelu": "gelu_exact"}.get(activation, "gelu_quick")
    )
    state = save_table(clip_text_table(config), VARIABLES["params"], {})
    theirs.load_state_dict(
        {name: torch.tensor(np.array(tensor)) for name, tensor in state.items()}, strict=False
    )
    with torch.no_grad():
        out = theirs(input_ids=torch.tensor(IDS).long(), output_hidden_states=True)
    ours = jax.jit(ClipText(config).apply)(VARIABLES, IDS, MASK)
    expected = (out.hidden_states[-2], out.last_hidden_state, out.text_embeds)
    for name, found, tensor in zip(ours._fields, ours, expected, strict=True):
        np.testing.assert_allclose(found, tensor.numpy(), atol=1e-4, err_msg=name)
