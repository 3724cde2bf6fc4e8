"""A decoder-only language model over a grid of codes, with its condition as the first tokens.

The network of LlamaGen (arXiv 2406.06525): Llama's blocks (RMS norms, SwiGLU, no biases) over the sequence
[condition, codes row by row], rotary positions of two axes. Condition tokens have no place in the grid. Their
rotary tables are zero, cosine and sine both, and so are therefore their queries and keys: every token looks
at each of them with the same score, 0, and they speak through their values. The released weights were trained
that way.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Condition, pytree_dataclass
from jaxtok.nn.byte_text import byte_ids
from jaxtok.nn.cache import KVCache, cached_step, with_room
from jaxtok.nn.class_tokens import known_or_null
from jaxtok.nn.conditioning import check_condition
from jaxtok.nn.linear import Dense
from jaxtok.nn.llama import decoder_mask
from jaxtok.nn.normalization import RMSNorm
from jaxtok.nn.rope import Rope, grid_coordinates, rope_tables
from jaxtok.nn.slots import SlotEmbedding, embedded, head_width
from jaxtok.nn.text import ByteEncoder
from jaxtok.nn.transformer import Block, Remat, Stack

Prefix = tuple[Float[jax.Array, "B T D"], Bool[jax.Array, "B T"]]


class ClassPrefix(nn.Module):
    """Class ids int32 [B] as one token; id `classes` means "no class".

    Attributes:
      classes: number of classes.
      width: D.
      null: whether there is a "no class", which guidance needs.
      deviation: of the table's initial values.
    """

    classes: int
    width: int
    null: bool = True
    deviation: float = 0.02

    @nn.compact
    def __call__(self, condition: Condition) -> Prefix:
        start = nn.initializers.normal(self.deviation)
        embedding = nn.Embed(self.classes + self.null, self.width, embedding_init=start, name="embedding")
        x = embedding(jnp.asarray(condition.features))[:, None]
        return x, jnp.ones(x.shape[:2], bool)

    @nn.nowrap
    def condition(self, labels: Int[jax.Array, " B"]) -> Condition:
        """Condition of labels, with its null class if there is one."""
        if not self.null:
            return Condition(labels)
        null = Condition(jnp.full((1,), self.classes, jnp.int32))
        return Condition(known_or_null(labels, self.classes), null=null)


class TextPrefix(nn.Module):
    """Features of a frozen text encoder [B, T, E], through two layers, as T tokens.

    "No text" is a table [T, E] in the place of the features. The official code leaves it at its random start;
    here it is learned.

    Attributes:
      length: T.
      text_width: E.
      width: D.
      null_rows: rows of the table, of which the first T are read; 0 for T.
    """

    length: int
    text_width: int
    width: int
    null_rows: int = 0

    @nn.compact
    def __call__(self, condition: Condition) -> Prefix:
        """Reads `condition.features = {"text": [B, T, E], "absent": bool [B]}`, as `condition` makes it.

        Of longer features the first T are read, as in the official code.

        Raises:
          ValueError: features of fewer tokens, or a table of fewer rows.
        """
        rows, given = self.null_rows or self.length, condition.features["text"].shape[1]
        if min(rows, given) < self.length:
            raise ValueError(
                f"features of {given} tokens and 'no text' of {rows}, but the prior reads {self.length}; pad "
                "the text to them"
            )
        text, absent = condition.features["text"][:, : self.length], condition.features["absent"]
        mask = None if condition.mask is None else condition.mask[:, : self.length]
        start = nn.initializers.normal(self.text_width**-0.5)
        null = self.param("null", start, (rows, self.text_width), jnp.float32)
        text = jnp.where(absent[:, None, None], null[: self.length], text)
        layers = [
            Dense(self.width, use_bias=False, kernel_init=nn.initializers.normal(0.02), name=f"linear_{i}")
            for i in (1, 2)
        ]
        x = layers[1](nn.gelu(layers[0](text), approximate=True))
        return x, jnp.ones(x.shape[:2], bool) if mask is None else mask

    @nn.nowrap
    def condition(
        self, text: Float[jax.Array, "B T E"], mask: Bool[jax.Array, "B T"] | None = None
    ) -> Condition:
        """Condition of features, with "no text" as its null: as long as the text that it replaces."""
        rows = text.shape[0]
        null = Condition({"text": text, "absent": jnp.ones(rows, bool)}, mask)
        return Condition({"text": text, "absent": jnp.zeros(rows, bool)}, mask, null=null)


class BytePrefix(nn.Module):
    """Byte ids of captions int32 [B, T], through an encoder that is trained with the prior, as T + 1 tokens.

    The last one is learned, and the first code is predicted from it: captions are padded behind, so that the
    end of a short one is no token.

    Attributes:
      encoder: of the bytes.
      width: D.
    """

    encoder: ByteEncoder
    width: int

    @nn.compact
    def __call__(self, condition: Condition) -> Prefix:
        ids = jnp.asarray(condition.features)
        mask = jnp.ones(ids.shape, bool) if condition.mask is None else condition.mask
        x = Dense(self.width, use_bias=False, name="linear")(self.encoder(ids, mask)[-1])
        last = self.param("last", nn.initializers.normal(0.02), (self.width,), jnp.float32).astype(x.dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(last, (x.shape[0], 1, self.width))], axis=1)
        return x, jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True)

    @nn.nowrap
    def condition(self, ids: Int[jax.Array, "B T"], mask: Bool[jax.Array, "B T"]) -> Condition:
        """Condition of captions, see `jaxtok.nn.byte_text.byte_ids`, with the empty one as its null."""
        null_ids, null_mask = byte_ids([""], ids.shape[1])
        return Condition(ids, mask, null=Condition(jnp.asarray(null_ids), jnp.asarray(null_mask)))


@pytree_dataclass()
class PrefixCache(KVCache):
    """A cache whose token 0 is the last one of the condition.

    The others lie before it as the cache's context.

    Attributes:
      first: that token [B, 1, D], before the first block.
      first_real: bool [B], whether it is one; padding is seen by itself alone.
    """

    first: Any
    first_real: Any

    def visible(
        self, queries: int, mask: Bool[jax.Array, "B S C"] | None = None
    ) -> Bool[jax.Array, "B 1 S K"]:
        """See `KVCache.visible`."""
        seen = super().visible(queries, mask)
        real = self.first_real[:, None]
        seen = seen.at[:, 0, :, self.context].set(seen[:, 0, :, self.context] & real)
        column = self.context + self.capacity  # of the first new token, and who else sees it
        other = seen[:, 0, 1:, column] & (real | (self.length > 0)[:, None])
        return seen.at[:, 0, 1:, column].set(other)


class PrefixTransformer(nn.Module):
    """Next-token network over a grid, called as `jaxtok.nn.latent_transformer.LatentTransformer` is.

    Attributes:
      space: alphabet of a token.
      grid: rows and columns of codes.
      layers, heads, head_dim: size; the width is heads * head_dim.
      hidden: inner width of the feed-forward halves.
      conditioner: module that turns a `Condition` into tokens, with `condition(...)` that makes one; None for
        a learned first token.
      rope_theta: base of the rotary frequencies.
      norm_epsilon: of the RMS norms.
      remat, unroll: see `Stack`.
      dtype: computation dtype; logits are float32.
    """

    space: CodeSpace
    grid: tuple[int, int]
    layers: int
    heads: int
    head_dim: int
    hidden: int
    conditioner: nn.Module | None = None
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    remat: Remat = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    takes_lengths: ClassVar[bool] = True

    def setup(self):
        if self.head_dim % 4:
            raise ValueError(
                f"head_dim={self.head_dim} must divide by 4: one half rotates with the row, the other with "
                "the column"
            )
        width = self.heads * self.head_dim
        self.embedding = SlotEmbedding(self.space, width, dtype=self.dtype)
        block = Block(
            self.heads,
            self.head_dim,
            self.hidden,
            norm_epsilon=self.norm_epsilon,
            qk_norm=False,
            dtype=self.dtype,
            parent=None,
        )
        self.stack = Stack(block, self.layers, self.remat, min(self.unroll, self.layers))
        self.norm = RMSNorm(self.norm_epsilon, dtype=self.dtype)
        # Zero, so that a fresh network gives every code the same probability.
        self.out = Dense(head_width(self.space), use_bias=False, kernel_init=nn.initializers.zeros)
        if self.conditioner is None:
            self.start_vector = self.param("start", nn.initializers.normal(0.02), (width,), jnp.float32)

    def __call__(
        self,
        codes: Int[jax.Array | np.ndarray, "B N Q"],
        condition: Condition | None = None,
        present: Bool[jax.Array | np.ndarray, "B N"] | None = None,
    ) -> Float[jax.Array, "B N F"]:
        """Logits of every token given those before it, float32.

        Args:
          codes: all N tokens.
          condition: what to generate.
          present: not used: what comes after a row's length is not read by what comes before.

        Raises:
          ValueError: a condition without a conditioner or the other way round.
        """
        del present
        prefix, real = self._prefix(condition, codes.shape[0])
        length = prefix.shape[1]
        x = jnp.concatenate([prefix, self.embedding(jnp.asarray(codes))[:, :-1]], axis=1)
        real = jnp.pad(real, ((0, 0), (0, x.shape[1] - length)), constant_values=True)
        x, _ = self.stack(x, shared={"rope": self._rope(length, x.shape[1]), "mask": decoder_mask(real)})
        return self._head(x[:, length - 1 :])

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> PrefixCache:
        """A cache that has read the condition, with room for `capacity` tokens.

        Args:
          condition: what to generate.
          capacity: N, or fewer tokens.
          batch: B, needed only without a condition.

        Raises:
          ValueError: see `__call__`; neither condition nor batch.
        """
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch` to make its cache")
        prefix, real = self._prefix(condition, batch)
        before, mask = prefix[:, :-1], real[:, :-1]
        keys = values = jnp.zeros(
            (self.layers, prefix.shape[0], self.heads, before.shape[1], self.head_dim), self.dtype
        )
        if before.shape[1]:
            shared = {"rope": self._rope(before.shape[1], before.shape[1]), "mask": decoder_mask(mask)}
            _, own = self.stack(before, shared=shared, collect="keys_values")
            keys, values = (jnp.swapaxes(x, 2, 3) for x in own)
        length = jnp.zeros(prefix.shape[:1], jnp.int32)
        return PrefixCache(*with_room(keys, values, capacity), mask, length, prefix[:, -1:], real[:, -1])

    def step(
        self,
        cache: PrefixCache,
        inputs: jax.Array,
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S C"] | None = None,
    ) -> tuple[Float[jax.Array, "B S F"], PrefixCache]:
        """Logits of the tokens at `positions`, given the tokens before them.

        Args:
          cache: from `start` or an earlier step.
          inputs: for each position the token before it, codes int32 [B, S, Q] or embeddings float [B, S, D].
            At position 0 the end of the condition is used whatever is given.
          positions: 0..N-1.
          mask: see `KVCache.visible`.

        Returns:
          Logits float32 and the cache with S more tokens.
        """
        x = jnp.where((positions == 0)[..., None], cache.first, embedded(self.embedding, inputs))
        table = self._rope(1, self.tokens)
        rope = dataclasses.replace(table, cos=table.cos[positions], sin=table.sin[positions])
        x, cache = cached_step(self.stack, cache, x, mask, rope=rope)
        return self._head(x), cache

    def embed(self, codes: Int[jax.Array, "B S Q"]) -> Float[jax.Array, "B S D"]:
        """Input embeddings of codes."""
        return self.embedding(codes)

    def _head(self, x):
        return self.out(self.norm(x).astype(jnp.float32))

    def _prefix(self, condition, batch) -> Prefix:
        check_condition(condition, self.conditioner is not None)
        if self.conditioner is None:
            first = self.start_vector.astype(self.dtype)
            return jnp.broadcast_to(first, (batch, 1, first.shape[0])), jnp.ones((batch, 1), bool)
        x, real = self.conditioner(condition)
        return x.astype(self.dtype), real

    def _rope(self, prefix: int, length: int) -> Rope:
        """Tables of the first `length` tokens, of which `prefix` have no place in the grid."""
        axes = (self.head_dim // 2, self.head_dim // 2)
        table = rope_tables(grid_coordinates(*self.grid), axes, self.rope_theta, "interleaved")
        rows = lambda x: jnp.pad(x, ((prefix, 0), (0, 0)))[:length]
        return dataclasses.replace(table, cos=rows(table.cos), sin=rows(table.sin))
