"""A next-token network that takes the tokens in any order (RAR, arXiv 2411.00776).

Its sequence is [first, class, t_o(0), t_o(1), ...] for an order o of the tokens. Every element carries the
position of its token, and the position of the token that it has to predict (target-aware embedding): without
the second, elements could not know which token comes next. Each block, and the norm before the head, is
modulated (AdaLN-Zero) by the class plus an embedding of the place in the sequence.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Condition, Vocab, pytree_dataclass
from jaxtok.kernels import lookup
from jaxtok.nn.cache import KVCache, cached_step, with_room
from jaxtok.nn.class_tokens import class_condition, class_count, class_ids
from jaxtok.nn.conditioning import check_condition
from jaxtok.nn.constrain import constrain
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import AdaptiveLayerNorm
from jaxtok.nn.slots import head_width
from jaxtok.nn.transformer import Block, Remat, Stack

PREFIX = 2  # the learned first element and the class, whose positions no order changes


@pytree_dataclass()
class OrderedCache(KVCache):
    """A cache that knows the class, and in which order tokens come; row by row at first.

    Attributes:
      conditioning: [B, D], embedding of the class.
      orders: int32 [B, N], which token comes first, second, ...
    """

    conditioning: Any
    orders: Any

    def in_order(self, orders: Int[jax.Array, "B N"]) -> "OrderedCache":
        """The cache of another order, for a sequence that begins.

        Args:
          orders: a permutation of 0..N-1 in each row.

        Raises:
          ValueError: another shape.
        """
        if orders.shape != self.orders.shape:
            raise ValueError(f"orders of shape {orders.shape}; this cache has {self.orders.shape}")
        return dataclasses.replace(self, orders=jnp.asarray(orders, jnp.int32))


class PermutedTransformer(nn.Module):
    """Next-token network over N tokens in any order, called as `LatentTransformer` is.

    Attributes:
      vocab: codes, a range "null" and, for a network of classes, a range "class"; see `masked_vocab`, whose
        mask is an id that nothing here uses.
      tokens: N.
      layers, heads, head_dim: size; the width is heads * head_dim.
      hidden: inner width of the feed-forward halves.
      spare_positions, spare_steps: rows that the tables of positions and of places in the sequence have
        beyond those that are used, as in the released weights.
      remat, unroll: see `Stack`.
      dtype: computation dtype; logits are float32.
    """

    vocab: Vocab
    tokens: int
    layers: int
    heads: int
    head_dim: int
    hidden: int
    spare_positions: int = 0
    spare_steps: int = 0
    remat: Remat = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        return self.vocab.space

    @property
    def classes(self) -> int:
        """Number of classes; 0 without."""
        return class_count(self.vocab)

    def setup(self):
        width, rows = self.heads * self.head_dim, self.tokens + PREFIX

        def table(name, rows):
            return self.param(name, nn.initializers.truncated_normal(0.02), (rows, width), jnp.float32)

        self.table = table("table", self.vocab.size)
        self.first = self.param("first", nn.initializers.zeros, (width,), jnp.float32)
        self.positions = table("positions", rows + self.spare_positions)
        self.targets = table("targets", rows + self.spare_positions)
        self.steps = table("steps", rows + self.spare_steps)
        block = Block(
            self.heads,
            self.head_dim,
            self.hidden,
            feed_forward="gelu_exact",
            qk_norm="layer",
            attention_bias=True,
            feed_forward_bias=True,
            modulated=True,
            modulation_affine=True,
            modulation_init=nn.initializers.zeros,
            dtype=self.dtype,
            parent=None,
        )
        self.stack = Stack(block, self.layers, self.remat, min(self.unroll, self.layers))
        self.norm = AdaptiveLayerNorm(self.dtype, kernel_init=nn.initializers.zeros)
        self.out = Dense(head_width(self.space))

    def __call__(
        self,
        codes: Int[jax.Array | np.ndarray, "B N Q"],
        condition: Condition | None = None,
        orders: Int[jax.Array | np.ndarray, "#B M"] | None = None,
    ) -> Float[jax.Array, "B N F"]:
        """Logits of every token given those before it in the order, float32.

        Args:
          codes: all N tokens, where they lie; row n of the logits is that of token n whatever the order.
          condition: classes; None for a network without.
          orders: which token comes first, second, ... in each row; None for the order in which they lie.

        Raises:
          ValueError: a condition where the network has none, or the other way round; orders of another shape.
        """
        codes = jnp.asarray(codes)
        batch, tokens = codes.shape[:2]
        conditioning, x = self._conditioning(condition, batch), self.embed(codes)
        order = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
        if orders is not None:
            if orders.shape != (batch, tokens):
                raise ValueError(
                    f"orders of shape {orders.shape} for codes of shape {codes.shape}; they need one place "
                    "per token"
                )
            order = jnp.asarray(orders)
            x = jnp.take_along_axis(x, order[..., None], axis=1)
        x = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)  # what stands at place 0 is not read
        places = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
        first, x = self._first(conditioning), self._elements(conditioning, x, places, order)
        x, c = (jnp.concatenate(parts, axis=1) for parts in zip(first, x, strict=True))
        causal = jnp.tril(jnp.ones((tokens + 1, tokens + 1), bool))
        x, _ = self.stack(x, shared={"mask": causal[None, None], "modulation": c})
        x = self.norm(x[:, 1:], c[:, 1:])
        if orders is not None:
            x = jnp.take_along_axis(x, jnp.argsort(order, axis=1)[..., None], axis=1)
        return self._logits(x)

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> OrderedCache:
        """A cache that has read the first element, with room for `capacity` tokens; see
        `OrderedCache.in_order` for another order than that in which tokens lie.

        Args:
          condition: what to generate.
          capacity: N, or fewer tokens.
          batch: B, needed only without a condition.

        Raises:
          ValueError: see `__call__`; neither condition nor batch.
        """
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch` to make its cache")
        rows = condition.batch if condition is not None else int(batch)  # type: ignore[arg-type]
        conditioning = self._conditioning(condition, rows)
        x, c = self._first(conditioning)
        _, own = self.stack(x, shared={"modulation": c}, collect="keys_values")
        keys, values = (jnp.swapaxes(part, 2, 3) for part in own)
        return OrderedCache(
            *with_room(keys, values, capacity),
            jnp.ones((rows, 1), bool),
            jnp.zeros((rows,), jnp.int32),
            conditioning,
            jnp.broadcast_to(jnp.arange(self.tokens), (rows, self.tokens)),
        )

    def step(
        self,
        cache: OrderedCache,
        inputs: jax.Array,
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S C"] | None = None,
    ) -> tuple[Float[jax.Array, "B S F"], OrderedCache]:
        """Logits of the tokens at some places of the order, given the tokens before them.

        Args:
          cache: from `start` or an earlier step.
          inputs: for each place the token before it in the order, codes int32 [B, S, Q] or embeddings
            [B, S, D]. At place 0 the class is used whatever is given.
          positions: places 0..N-1 in the order.
          mask: see `KVCache.visible`.

        Returns:
          Logits float32 of tokens `orders[positions]`, and the cache with S more tokens.
        """
        x = self.embed(inputs) if jnp.issubdtype(inputs.dtype, jnp.integer) else inputs.astype(self.dtype)
        x, c = self._elements(cache.conditioning, x, positions, cache.orders)
        x, cache = cached_step(self.stack, cache, x, mask, modulation=c)
        return self._logits(self.norm(x, c)), cache

    def embed(self, codes: Int[jax.Array, "B S Q"]) -> Float[jax.Array, "B S D"]:
        """Input embeddings of codes, without their positions."""
        return jnp.sum(lookup(self.table.astype(self.dtype), self.vocab.from_codes(codes)), axis=-2)

    @nn.nowrap
    def class_condition(self, labels: Int[jax.Array, " B"]) -> Condition | None:
        """Condition of class labels, with "no class" as null; None for a network without classes."""
        return class_condition(self.vocab, labels) if self.classes else None

    def _conditioning(self, condition, rows):
        """Embedding of the class [B, D]; that of "no class" in a network without classes."""
        check_condition(condition, bool(self.classes))
        null = jnp.full((rows,), self.vocab.id("null"))
        ids = null if condition is None else class_ids(self.vocab, condition)
        return self.table.astype(self.dtype)[ids]

    def _first(self, conditioning):
        """The first element [B, 1, D] and its modulation."""
        x = (self.first + self.positions[0]).astype(self.dtype)
        return jnp.broadcast_to(x, conditioning.shape)[:, None], (conditioning + self._at(self.steps, 0))[
            :, None
        ]

    def _elements(self, conditioning, contents, places, orders):
        """The elements [B, S, D] that predict the tokens at `places` of the orders, and their modulation."""
        begins = places == 0
        target = jnp.take_along_axis(orders, places, axis=1)
        before = jnp.take_along_axis(orders, jnp.maximum(places - 1, 0), axis=1)
        position = jnp.where(begins, PREFIX - 1, PREFIX + before)
        x = jnp.where(begins[..., None], conditioning[:, None], contents)
        x = x + self._at(self.positions, position) + self._at(self.targets, PREFIX + target)
        return x, conditioning[:, None] + self._at(self.steps, 1 + places)

    def _at(self, table, rows):
        return table.astype(self.dtype)[rows]

    def _logits(self, x):
        return constrain(self.out(x.astype(jnp.float32)), ("data", "fsdp"), None, "tensor")
