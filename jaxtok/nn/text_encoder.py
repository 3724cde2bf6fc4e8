"""Frozen text encoders from Hugging Face checkpoints, and captions as conditions of a prior.

encoder, variables, config = load_text_encoder("checkpoints/AMD-OLMo-1B", dtype=jnp.bfloat16)
condition = encode_captions(encoder, variables, "checkpoints/AMD-OLMo-1B", ["a red square"], length=128)
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import Condition
from jaxtok.nn.llama import LlamaEncoder
from jaxtok.nn.llama_config import LlamaConfig
from jaxtok.nn.subword_text import tokenize
from jaxtok.weights import Entry, Table, dense, load_table, read_tensors


def text_encoder_table(config: LlamaConfig, prefix: str = "model.") -> Table:
    """How a Hugging Face state dict maps to the parameters of `LlamaEncoder`.

    Args:
      config: the model.
      prefix: of the official names: "model." in checkpoints of models with a head, "" without.
    """
    layers, theirs, ours = range(config.layers), prefix + "layers.{i}", "stack/block"
    attention = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    feed_forward = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    maps = [(f"self_attn.{a}", f"attention/{b}", config.attention_bias) for a, b in attention.items()]
    maps += [(f"mlp.{a}", f"feed_forward/{b}", config.feed_forward_bias) for a, b in feed_forward.items()]
    norms = {
        "llama": {"input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm"},
        "olmo": {},
        "olmo2": {
            "post_attention_layernorm": "attention_norm",
            "post_feedforward_layernorm": "feed_forward_norm",
            "self_attn.q_norm": "attention/query_norm",
            "self_attn.k_norm": "attention/key_norm",
        },
    }[config.family]
    entries = [Entry(f"{prefix}embed_tokens.weight", "embedding/embedding")]
    entries += [Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/kernel", dense, layers) for a, b, _ in maps]
    entries += [
        Entry(f"{theirs}.{a}.bias", f"{ours}/{b}/bias", indices=layers) for a, b, bias in maps if bias
    ]
    entries += [Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/scale", indices=layers) for a, b in norms.items()]
    if config.family != "olmo":
        entries.append(Entry(f"{prefix}norm.weight", "norm/scale"))
    # The head predicts tokens, which an encoder does not; frequencies are computed.
    return Table(tuple(entries), unused=(r"lm_head\.weight", r".*\.inv_freq"))


def load_text_encoder(
    path: str | os.PathLike, dtype: Any = jnp.float32
) -> tuple[LlamaEncoder, dict[str, Any], LlamaConfig]:
    """Loads a frozen text encoder from a local folder in Hugging Face format.

    Args:
      path: folder with `config.json` and `model.safetensors`, or its shards and their index.
      dtype: in which weights are kept (as NumPy arrays) and computed with; bfloat16 halves the memory.

    Returns:
      `(module, variables, config)`, for `module.apply(variables, ids, mask)`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the configuration has options that are not implemented, or the tensors do not fit it (all
        are listed).
    """
    folder = Path(path)
    config = LlamaConfig.from_hugging_face(folder / "config.json")
    tensors, _ = read_tensors(folder)
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    expected = text_encoder_shapes(config, dtype)["params"]
    params, _ = load_table(text_encoder_table(config, prefix), tensors, expected, np.dtype(dtype))
    return LlamaEncoder(config, dtype=dtype), {"params": params}, config


def text_encoder_shapes(config: LlamaConfig, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Shapes of the variables that `load_text_encoder` gives, without any files."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(LlamaEncoder(config).init, jax.random.key(0), ids)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: LlamaEncoder, variables: Any, ids: jax.Array, mask: jax.Array) -> Any:
    return module.apply(variables, ids, mask)


def encode_captions(
    module: LlamaEncoder,
    variables: Any,
    path: str | os.PathLike,
    texts: Sequence[str],
    length: int = 128,
    batch_size: int = 64,
) -> Condition:
    """The condition of a prior for captions, and, as `null`, that for the empty caption.

    Takes L T D numbers of memory per caption (8 MB for AMD-OLMo-1B at 128 tokens in bfloat16), so encode as
    many as are needed at a time.

    Args:
      module, variables: from `load_text_encoder`.
      path: folder with `tokenizer.json`.
      texts: B captions.
      length: T; longer captions are cut, shorter ones padded on the left.
      batch_size: captions per compiled call; the last call is filled up, so that there is one shape.

    Returns:
      `Condition` for `LayerwiseConditioner`: features [L, B, T, D], mask bool [B, T], `batch_axis=1`.

    Raises:
      ValueError: the tokenizer has ids that the model does not know.
    """
    ids, mask = tokenize(path, [*texts, ""], length)
    if ids.max() >= module.config.vocab:
        raise ValueError(
            f"{path} yields token {ids.max()}, the model knows {module.config.vocab} tokens; use its own "
            "tokenizer.json"
        )
    # Once, not in every call; nothing happens to weights that are on a device already.
    variables = jax.tree.map(jnp.asarray, variables)
    size = min(batch_size, len(ids))
    # Rows that fill up the last call repeat the empty caption.
    rows = np.minimum(np.arange(-(-len(ids) // size) * size), len(texts)).reshape(-1, size)
    batches = [_encode(module, variables, ids[batch], mask[batch]) for batch in rows]
    features, mask = jnp.concatenate(batches, axis=1)[:, : len(ids)], jnp.asarray(mask)
    null = Condition(features[:, -1:], mask[-1:], batch_axis=1)
    return Condition(features[:, :-1], mask[:-1], null=null, batch_axis=1)
