"""The text half of CLIP (arXiv 2103.00020) as a frozen encoder, from Hugging Face checkpoints.

config, variables = load_clip_text("checkpoints/clip-vit-large-patch14-336")
features = ClipText(config).apply(variables, ids, mask)
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxtok.json_files import read_object
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.transformer import Block, Stack
from jaxtok.weights import Entry, Table, dense, load_table, read_tensors

_ACTIVATIONS = {"quick_gelu": "gelu_quick", "gelu": "gelu_exact"}


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """Sizes; those of CLIP ViT-L/14 unless given.

    Attributes:
      vocab: number of token ids.
      length: tokens of the longest text.
      layers, heads, width, hidden: of the transformer.
      projection: width of what a whole text becomes.
      feed_forward: see `FeedForward`.
      epsilon: of the norms.
    """

    vocab: int = 49_408
    length: int = 77
    layers: int = 12
    heads: int = 12
    width: int = 768
    hidden: int = 3072
    projection: int = 768
    feed_forward: str = "gelu_quick"
    epsilon: float = 1e-5

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "ClipTextConfig":
        """From the content of `config.json`, of the whole CLIP or of its text half.

        Raises:
          ValueError: another activation than "quick_gelu" or "gelu".
        """
        text = config.get("text_config", config)
        known, ours = text.get("hidden_act", "quick_gelu"), cls()
        if known not in _ACTIVATIONS:
            raise ValueError(f"hidden_act={known!r} of a CLIP; choose one of {sorted(_ACTIVATIONS)}")
        return cls(
            text.get("vocab_size", ours.vocab),
            text.get("max_position_embeddings", ours.length),
            text.get("num_hidden_layers", ours.layers),
            text.get("num_attention_heads", ours.heads),
            text.get("hidden_size", ours.width),
            text.get("intermediate_size", ours.hidden),
            config.get("projection_dim", text.get("projection_dim", ours.projection)),
            _ACTIVATIONS[known],
            text.get("layer_norm_eps", ours.epsilon),
        )


class ClipFeatures(NamedTuple):
    """What CLIP makes of texts.

    Attributes:
      early: [B, T, D], tokens before the last block.
      late: [B, T, D], tokens behind the last block and norm.
      pooled: [B, P], the whole text.
    """

    early: jax.Array
    late: jax.Array
    pooled: jax.Array


class ClipText(nn.Module):
    """The network.

    Attributes:
      config: its sizes.
      dtype: computation dtype.
    """

    config: ClipTextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[jax.Array, "B T"], mask: Bool[jax.Array, "B T"]) -> ClipFeatures:
        """Encodes token ids.

        Args:
          ids: of texts that begin and end with their special tokens, T at most the length of the model.
          mask: True on real tokens, wherever the padding is; the tokens are moved to the front, and what is
            behind them becomes id 0, as where the released priors were trained.

        Raises:
          ValueError: longer texts.
        """
        c, tokens = self.config, ids.shape[1]
        if tokens > c.length:
            raise ValueError(f"texts of {tokens} tokens, this CLIP reads at most {c.length}; cut them")
        places = jnp.argsort(~mask, axis=1, stable=True)
        ids = jnp.take_along_axis(jnp.where(mask, ids, 0), places, axis=1)
        normal = nn.initializers.normal(0.02)
        x = nn.Embed(c.vocab, c.width, embedding_init=normal, name="embedding")(ids)
        x = (x + self.param("positions", normal, (c.length, c.width), jnp.float32)[:tokens]).astype(
            self.dtype
        )
        block = Block(
            c.heads,
            c.width // c.heads,
            c.hidden,
            "layer",
            c.epsilon,
            c.feed_forward,
            qk_norm=False,
            attention_bias=True,
            feed_forward_bias=True,
            dtype=self.dtype,
            parent=None,
        )
        causal = jnp.tril(jnp.ones((tokens, tokens), bool))[None, None]
        stack = Stack(block, c.layers, name="stack")
        x, hidden = stack(x, None, {"mask": causal}, "hidden")
        late = LayerNorm(c.epsilon, dtype=self.dtype, name="norm")(x)
        end = jnp.maximum(jnp.sum(mask, axis=1) - 1, 0)
        last = jnp.take_along_axis(late, end[:, None, None], axis=1)[:, 0]
        pooled = Dense(c.projection, use_bias=False, dtype=self.dtype, name="projection")(last)
        return ClipFeatures(hidden[-2], late, pooled)


def clip_text_table(config: ClipTextConfig) -> Table:
    """How a Hugging Face state dict, of the whole CLIP or of its text half, maps to our parameters."""
    layers, theirs, ours = range(config.layers), "text_model.encoder.layers.{i}", "stack/block"
    maps = {
        "self_attn.q_proj": "attention/query",
        "self_attn.k_proj": "attention/key",
        "self_attn.v_proj": "attention/value",
        "self_attn.out_proj": "attention/out",
        "mlp.fc1": "feed_forward/up",
        "mlp.fc2": "feed_forward/down",
    }
    norms = {"layer_norm1": "attention_norm", "layer_norm2": "feed_forward_norm"}
    entries = [
        Entry("text_model.embeddings.token_embedding.weight", "embedding/embedding"),
        Entry("text_model.embeddings.position_embedding.weight", "positions"),
        Entry("text_model.final_layer_norm.weight", "norm/scale"),
        Entry("text_model.final_layer_norm.bias", "norm/bias"),
        Entry("text_projection.weight", "projection/kernel", dense),
    ]
    entries += [Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/kernel", dense, layers) for a, b in maps.items()]
    entries += [Entry(f"{theirs}.{a}.weight", f"{ours}/{b}/scale", indices=layers) for a, b in norms.items()]
    entries += [
        Entry(f"{theirs}.{a}.bias", f"{ours}/{b}/bias", indices=layers) for a, b in (maps | norms).items()
    ]
    # The half that sees images, and what is computed.
    return Table(
        tuple(entries),
        unused=(r"vision_model\..*", r"visual_projection\..*", r"logit_scale", r".*position_ids"),
    )


def load_clip_text(
    path: str | os.PathLike, dtype: Any = jnp.float32
) -> tuple[ClipTextConfig, dict[str, Any]]:
    """Sizes and variables from a local folder in Hugging Face format, weights as NumPy arrays of `dtype`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: see `ClipTextConfig.from_hugging_face`, or tensors that do not fit (all are listed).
    """
    folder = Path(path)
    config = ClipTextConfig.from_hugging_face(
        read_object(folder / "config.json", {}, "Copy the checkpoint's config.json again.")
    )
    tensors, _ = read_tensors(folder)
    shapes = clip_text_shapes(config, dtype)["params"]
    params, _ = load_table(clip_text_table(config), tensors, shapes, np.dtype(dtype))
    return config, {"params": params}


def clip_text_shapes(config: ClipTextConfig, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Shapes of the variables that `load_clip_text` gives, without any files."""
    ids, mask = (jax.ShapeDtypeStruct((1, 1), kind) for kind in (jnp.int32, jnp.bool_))
    shapes = jax.eval_shape(ClipText(config).init, jax.random.key(0), ids, mask)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
