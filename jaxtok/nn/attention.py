"""Multi-head attention with normalised queries and keys, rotary positions and ready-made extra keys."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import make_norm
from jaxtok.nn.rope import Rope, apply_rope

Heads = Float[jax.Array, "B N H D"]
Keys = Float[
    jax.Array, "B S K D"
]  # their number differs from that of the queries, and so may that of their heads
AttentionFn = Callable[..., jax.Array]


def dot_product_attention(
    query: Heads, key: Keys, value: Keys, mask: Bool[jax.Array, "#B #H #N #S"] | None = None
) -> Heads:
    """Softmax attention with scale `1 / sqrt(D)`; the seam where a fused implementation can be injected.

    Args:
      query: [B, N, H, D].
      key, value: [B, S, K, D]; K divides H, and head h of the queries looks at head h // (H / K).
      mask: broadcastable to [B, H, N, S], True where a query may look.

    Returns:
      [B, N, H, D].
    """
    return jax.nn.dot_product_attention(query, key, value, mask=mask)


def mup_attention(
    query: Heads, key: Keys, value: Keys, mask: Bool[jax.Array, "#B #H #N #S"] | None = None
) -> Heads:
    """`dot_product_attention` with scale `8 / D`, so that the best learning rate does not move with the width
    (arXiv 2203.03466); at 64 channels per head it is the usual scale.
    """
    return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=8 / query.shape[-1])


class Attention(nn.Module):
    """Attention over a sequence and, optionally, over keys and values that come from elsewhere.

    Attributes:
      heads: number of heads.
      head_dim: channels per head; the output is as wide as the input whatever `heads * head_dim` is.
      qk_norm: whether each head's queries and keys go through an RMS norm with a learned scale; "plain" for
        a layer norm without parameters.
      use_bias: whether the projections have biases.
      attention_fn: `(query, key, value, mask) -> output`.
      dtype: computation dtype.
      key_heads: heads of the keys and values, a divisor of `heads` whose consecutive groups share them
        (grouped-query attention, arXiv 2305.13245); None for as many as `heads`.
      out_bias: whether the output projection has a bias; None for the same as the others.
      norm_epsilon: of the norms of queries and keys.
    """

    heads: int
    head_dim: int
    qk_norm: bool | Literal["plain"] = True
    use_bias: bool = False
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32
    key_heads: int | None = None
    out_bias: bool | None = None
    norm_epsilon: float = 1e-6

    def setup(self):
        def projection(heads):
            return Dense(heads * self.head_dim, use_bias=self.use_bias, dtype=self.dtype)

        key_heads = self.key_heads or self.heads
        if self.heads % key_heads:
            raise ValueError(
                f"key_heads={key_heads} does not divide heads={self.heads}; every group of queries needs one"
            )
        self.query, self.key, self.value = (
            projection(self.heads),
            projection(key_heads),
            projection(key_heads),
        )
        if self.qk_norm:
            kind = "rms" if self.qk_norm is True else self.qk_norm
            self.query_norm, self.key_norm = (
                make_norm(kind, epsilon=self.norm_epsilon, dtype=self.dtype) for _ in range(2)
            )

    def keys_values(self, x: Float[jax.Array, "B N E"], rope: Rope | None = None) -> tuple[Keys, Keys]:
        """Keys and values of a sequence, each [B, N, K, head_dim]."""
        keys = self._heads(self.key(x))
        if self.qk_norm:
            keys = self.key_norm(keys)
        return (keys if rope is None else apply_rope(keys, rope)), self._heads(self.value(x))

    def queries(self, x: Float[jax.Array, "B N E"], rope: Rope | None = None) -> Heads:
        """Queries of a sequence, [B, N, H, head_dim]."""
        queries = self._heads(self.query(x))
        if self.qk_norm:
            queries = self.query_norm(queries)
        return queries if rope is None else apply_rope(queries, rope)

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B N E"],
        prefix: tuple[Float[jax.Array, "B K P D"], Float[jax.Array, "B K P D"]] | None = None,
        rope: Rope | None = None,
        mask: Bool[jax.Array, "#B #H #N S"] | None = None,
    ) -> tuple[Float[jax.Array, "B N E"], tuple[Float[jax.Array, "B N K D"], Float[jax.Array, "B N K D"]]]:
        """Attends from `x` to `[prefix; x]`.

        Args:
          x: the sequence.
          prefix: keys and values [B, K, P, head_dim] that come before those of `x` (text, cached tokens),
            already rotated; heads first, as the matrix products want them, so that a cache is not transposed
            for every token that it helps to generate.
          rope: tables for the positions of `x`.
          mask: True where a query may look, over the P + N keys.

        Returns:
          The attended sequence and the keys and values of `x`, for a cache.
        """
        keys, values = own = self.keys_values(x, rope)
        if prefix is not None:
            keys, values = (_prepend(before, new) for before, new in zip(prefix, own))
        out = self.attention_fn(self.queries(x, rope), keys, values, mask)
        out = out.reshape(*x.shape[:2], self.heads * self.head_dim)
        bias = self.use_bias if self.out_bias is None else self.out_bias
        return Dense(x.shape[-1], use_bias=bias, dtype=self.dtype, name="out")(out), own

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


def _prepend(before: Float[jax.Array, "B K P D"], new: Float[jax.Array, "B N K D"]) -> Keys:
    # Joined heads first, where most of it lies that way already: this is where generating spends its time.
    joined = jnp.concatenate([before.astype(new.dtype), jnp.swapaxes(new, 1, 2)], axis=2)
    return jnp.swapaxes(joined, 1, 2)
