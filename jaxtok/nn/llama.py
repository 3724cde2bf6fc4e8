"""Decoder-only language models as text encoders: the networks of Llama, OLMo and OLMo 2.

They return every layer's output, because priors such as Instella-T2I's read the language model layer by
layer. Weights and captions: `jaxtok.nn.text_encoder`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.nn.attention import Attention, AttentionFn, dot_product_attention
from jaxtok.nn.constrain import constrain
from jaxtok.nn.feedforward import FeedForward
from jaxtok.nn.llama_config import LlamaConfig
from jaxtok.nn.normalization import RMSNorm, make_norm
from jaxtok.nn.rope import Rope, apply_rope
from jaxtok.nn.transformer import Stack


def decoder_rope(config: LlamaConfig, positions: Int[jax.Array, "B T"]) -> Rope:
    """Rotary tables [B, T, head_dim] with the model's base and scaling."""
    frequencies = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    if config.rope_scaling is not None:
        frequencies = config.rope_scaling.apply(frequencies)
    angle = positions[..., None].astype(jnp.float32) * np.tile(frequencies, 2).astype(np.float32)
    return Rope(jnp.cos(angle), jnp.sin(angle), neighbours=False)


def decoder_mask(mask: Bool[jax.Array, "B T"]) -> Bool[jax.Array, "B 1 T T"]:
    """Causal over real tokens. Padding sees itself too: no row is the softmax of an empty set."""
    tokens = mask.shape[1]
    causal = jnp.tril(jnp.ones((tokens, tokens), bool))
    return (causal & mask[:, None, :] | jnp.eye(tokens, dtype=bool))[:, None]


class DecoderAttention(Attention):
    """Attention with what the OLMo families add.

    Attributes:
      clip: queries, keys and values are clipped to [-clip, clip]; None for not.
      wide_norm: RMS norm over all heads' queries (keys) together, before they are split into heads.
      norm_epsilon: of that norm.
    """

    clip: float | None = None
    wide_norm: bool = False
    norm_epsilon: float = 1e-6

    def setup(self):
        super().setup()
        if self.wide_norm:
            self.query_norm = RMSNorm(self.norm_epsilon, self.dtype)
            self.key_norm = RMSNorm(self.norm_epsilon, self.dtype)

    def keys_values(
        self, x: Float[jax.Array, "B N E"], rope: Rope | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys and values of a sequence, each [B, N, K, head_dim]."""
        keys, values = self._clipped(self.key(x)), self._clipped(self.value(x))
        keys = self._heads(self.key_norm(keys) if self.wide_norm else keys)
        return (keys if rope is None else apply_rope(keys, rope)), self._heads(values)

    def queries(self, x: Float[jax.Array, "B N E"], rope: Rope | None = None) -> jax.Array:
        """Queries of a sequence, [B, N, H, head_dim]."""
        queries = self._clipped(self.query(x))
        queries = self._heads(self.query_norm(queries) if self.wide_norm else queries)
        return queries if rope is None else apply_rope(queries, rope)

    def _clipped(self, x: jax.Array) -> jax.Array:
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)


class DecoderBlock(nn.Module):
    """One layer; called as `jaxtok.nn.transformer.Block` is, so that `Stack` scans it.

    Attributes:
      config: the model.
      attention_fn: implementation of attention.
      dtype: computation dtype.
    """

    config: LlamaConfig
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, layer: dict[str, Any], shared: dict[str, Any], collect: str = "hidden"):
        """Runs the layer on x [B, T, D]; `shared` holds "rope" and "mask".

        Returns its output twice, once to be collected.
        """
        config = self.config
        attention = DecoderAttention(
            heads=config.heads,
            head_dim=config.head_dim,
            key_heads=config.key_heads,
            qk_norm=False,
            wide_norm=config.family == "olmo2",
            norm_epsilon=config.norm_epsilon,
            clip=config.clip,
            use_bias=config.attention_bias,
            attention_fn=self.attention_fn,
            dtype=self.dtype,
            name="attention",
        )
        feed_forward = FeedForward(
            config.hidden, "swiglu", config.feed_forward_bias, self.dtype, name="feed_forward"
        )
        halves = (
            (
                _norm(config, self.dtype, "attention_norm"),
                lambda h: attention(h, None, shared["rope"], shared["mask"])[0],
            ),
            (_norm(config, self.dtype, "feed_forward_norm"), feed_forward),
        )
        for norm, half in halves:
            x = x + (norm(half(x)) if config.family == "olmo2" else half(norm(x)))
        x = constrain(x, ("data", "fsdp"), None, None)
        return x, x


class LlamaEncoder(nn.Module):
    """The whole model without its head; returns every layer's output.

    Attributes:
      config: the model.
      attention_fn: implementation of attention.
      dtype: computation dtype.
    """

    config: LlamaConfig
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[jax.Array, "B T"], mask: Bool[jax.Array, "B T"] | None = None
    ) -> Float[jax.Array, "L B T D"]:
        """Encodes token ids.

        Args:
          ids: token ids below `config.vocab`.
          mask: True at real tokens, whichever side the padding is on; None for all.

        Returns:
          What `transformers` calls `hidden_states[1:]`: the outputs of the layers, the last one after the
          final norm. Values at padding are finite and mean nothing.
        """
        config = self.config
        mask = jnp.ones(ids.shape, bool) if mask is None else mask
        # The first real token is at position 0, wherever the padding is.
        positions = jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)
        shared = {"rope": decoder_rope(config, positions), "mask": decoder_mask(mask)}
        x = nn.Embed(config.vocab, config.width, name="embedding")(ids).astype(self.dtype)
        block = DecoderBlock(config, self.attention_fn, self.dtype, parent=None)
        x, hidden = Stack(block, config.layers, name="stack")(x, shared=shared, collect="hidden")
        return hidden.at[-1].set(_norm(config, self.dtype, "norm")(x))


def _norm(config: LlamaConfig, dtype: Any, name: str) -> nn.Module:
    if config.family == "olmo":
        return make_norm("layer", affine=False, epsilon=config.norm_epsilon, dtype=dtype, name=name)
    return make_norm("rms", epsilon=config.norm_epsilon, dtype=dtype, name=name)
