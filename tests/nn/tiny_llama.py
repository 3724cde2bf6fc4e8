"""Tiny decoder-only models for the tests: sizes, random weights, checkpoints in Hugging Face format."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.nn.llama_config import LlamaConfig
from jaxtok.nn.text_encoder import text_encoder_table
from jaxtok.weights import save_table, write_tensors

TINY = LlamaConfig(vocab=50, width=16, layers=3, heads=4, key_heads=2, head_dim=4, hidden=24)
FAMILIES = {
    "llama": TINY,
    "olmo": dataclasses.replace(TINY, family="olmo", key_heads=4, clip=0.5),
    "olmo2": dataclasses.replace(TINY, family="olmo2"),
}
# As config.json would have it, in the spelling of transformers 4.
OFFICIAL = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}


def random_variables(module, scale=0.3, seed=0):
    """Every leaf random, so that a forgotten scale or bias shows; mean one for scales, else zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        return rng.normal(path[-1].key == "scale", scale, shape.shape).astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def write_checkpoint(folder, encoder, prefix="model.", shards=1):
    module, variables = encoder
    config = module.config
    official = OFFICIAL | {
        "model_type": config.family,
        "num_key_value_heads": config.key_heads,
        "rms_norm_eps": config.norm_epsilon,
        "clip_qkv": config.clip,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(official))
    extras = {
        "lm_head.weight": np.zeros((50, 16), np.float32),
        f"{prefix}rotary_emb.inv_freq": np.ones(2, np.float32),
    }
    tensors = save_table(text_encoder_table(config, prefix), variables["params"], extras)
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return tensors
    weight_map = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(weight_map.values()):
        write_tensors(folder / shard, {name: tensors[name] for name in tensors if weight_map[name] == shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors
