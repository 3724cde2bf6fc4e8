"""Multi-head attention with normalised queries and keys, rotary positions and ready-made extra keys."""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.kernels.nearest_code.api import unit
from jaxtok.nn.linear import Dense, Initializer
from jaxtok.nn.normalization import make_norm
from jaxtok.nn.rope import Rope, apply_rope

Heads = Float[jax.Array, "B N H D"]
Keys = Float[
    jax.Array, "B S K D"
]  # their number differs from that of the queries, and so may that of their heads
AttentionFn = Callable[..., jax.Array]
QKNorm = bool | Literal["rms", "layer", "plain", "cosine"]  # True is "rms"


def dot_product_attention(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[jax.Array, "#B #H #N #S"] | None = None,
    scale: float | None = None,
) -> Heads:
    """Softmax attention; the seam where a fused implementation can be injected.

    Args:
      query: [B, N, H, D].
      key, value: [B, S, K, D]; K divides H, and head h of the queries looks at head h // (H / K).
      mask: broadcastable to [B, H, N, S], True where a query may look.
      scale: factor of the scores; default `1 / sqrt(D)`.

    Returns:
      [B, N, H, D].
    """
    return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)


class CosineScale(nn.Module):
    """Queries and keys of unit length, and a learned factor of their cosines per head, at most 100 (Swin V2,
    arXiv 2111.09883; VAR, arXiv 2404.02905). The factor is part of the queries.

    Attributes:
      dtype: output dtype; lengths are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries: Heads) -> Heads:
        log_scale = self.param("scale", nn.initializers.constant(math.log(4)), (queries.shape[2],))
        factor = jnp.exp(jnp.minimum(log_scale, math.log(100)))[:, None]
        return (unit(queries.astype(jnp.float32)) * factor).astype(self.dtype)


class Attention(nn.Module):
    """Attention over a sequence and, optionally, over keys and values that come from elsewhere.

    Attributes:
      heads: number of heads.
      head_dim: channels per head; the output is as wide as the input whatever `heads * head_dim` is.
      qk_norm: what normalises each head's queries and keys: "rms" (or True) and "layer", with learned
        parameters; "plain", a layer norm without; "cosine" for unit length and a learned factor of the
        scores, see `CosineScale`; False for nothing.
      use_bias: whether the projections have biases.
      attention_fn: `(query, key, value, mask) -> output`.
      dtype: computation dtype.
      key_heads: heads of the keys and values, a divisor of `heads` whose consecutive groups share them
        (grouped-query attention, arXiv 2305.13245); None for as many as `heads`.
      out_bias: whether the output projection has a bias; None for the same as the others.
      key_bias: whether the keys have a bias; None for the same as queries and values.
      scale: factor of the scores; None for `1 / sqrt(head_dim)`, or 1 of cosines.
      kernel_init, out_init: of the projections, and of the output projection.
      norm_epsilon: of the norms of queries and keys.
    """

    heads: int
    head_dim: int
    qk_norm: QKNorm = True
    use_bias: bool = False
    attention_fn: AttentionFn = dot_product_attention
    dtype: Any = jnp.float32
    key_heads: int | None = None
    out_bias: bool | None = None
    key_bias: bool | None = None
    scale: float | None = None
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer = nn.initializers.xavier_uniform()
    norm_epsilon: float = 1e-6

    def setup(self):
        def projection(heads, bias=self.use_bias):
            return Dense(heads * self.head_dim, use_bias=bias, dtype=self.dtype, kernel_init=self.kernel_init)

        key_heads = self.key_heads or self.heads
        if self.heads % key_heads:
            raise ValueError(
                f"key_heads={key_heads} does not divide heads={self.heads}; every group of queries needs one"
            )
        self.query, self.key, self.value = (
            projection(self.heads),
            projection(key_heads, self.use_bias if self.key_bias is None else self.key_bias),
            projection(key_heads),
        )
        if self.qk_norm == "cosine":
            self.query_norm: Any = CosineScale(dtype=self.dtype)
            self.key_norm: Any = lambda keys: unit(keys.astype(jnp.float32)).astype(self.dtype)
        elif self.qk_norm:
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
        scaled = {} if self._factor is None else {"scale": self._factor}
        out = self.attention_fn(self.queries(x, rope), keys, values, mask, **scaled)
        out = out.reshape(*x.shape[:2], self.heads * self.head_dim)
        bias = self.use_bias if self.out_bias is None else self.out_bias
        project = Dense(x.shape[-1], bias, self.dtype, self.out_init, name="out")
        return project(out), own

    def weights(
        self,
        x: Float[jax.Array, "B N E"],
        prefix: tuple[Float[jax.Array, "B K P D"], Float[jax.Array, "B K P D"]] | None = None,
        rope: Rope | None = None,
        mask: Bool[jax.Array, "#B #H #N S"] | None = None,
    ) -> Float[jax.Array, "B H N S"]:
        """How much each query takes of each value, in float32; to look at, because no fast attention forms
        it. The arguments are those of a call.
        """
        keys = self.keys_values(x, rope)[0]
        if prefix is not None:
            keys = _prepend(prefix[0], keys)
        keys = jnp.repeat(keys, self.heads // keys.shape[2], axis=2).astype(jnp.float32)
        scores = jnp.einsum("bnhd,bshd->bhns", self.queries(x, rope).astype(jnp.float32), keys)
        scores = scores * (self.head_dim**-0.5 if self._factor is None else self._factor)
        return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf))

    @property
    def _factor(self) -> float | None:
        return 1.0 if self.scale is None and self.qk_norm == "cosine" else self.scale

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


def _prepend(before: Float[jax.Array, "B K P D"], new: Float[jax.Array, "B N K D"]) -> Keys:
    # Joined heads first, where most of it lies that way already: this is where generating spends its time.
    joined = jnp.concatenate([before.astype(new.dtype), jnp.swapaxes(new, 1, 2)], axis=2)
    return jnp.swapaxes(joined, 1, 2)
