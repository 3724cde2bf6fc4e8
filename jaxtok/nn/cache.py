"""The cache of a transformer that generates tokens one after another.

It stands with the networks, not with the samplers, because networks write it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from jaxtok.codes import pytree_dataclass

Cache = TypeVar("Cache", bound="KVCache")


@pytree_dataclass()
class KVCache:
    """Keys and values of all layers: those of the condition first, then room for `capacity` tokens.

    Attributes:
      keys, values: [L, B, H, T + capacity, head_dim], the layout of `Attention`'s prefix.
      context_mask: bool [B, T], which of the first T entries are real.
      length: int32 [B], how many tokens of each row are filled.
    """

    keys: Any
    values: Any
    context_mask: Any
    length: Any

    @property
    def context(self) -> int:
        """T, entries that belong to the condition."""
        return self.context_mask.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self.keys.shape[3] - self.context

    def visible(
        self, queries: int, mask: Bool[jax.Array, "B S C"] | None = None
    ) -> Bool[jax.Array, "B 1 S K"]:
        """Which of the T + capacity + S keys each of S new tokens sees.

        Args:
          queries: S.
          mask: visibility of the `capacity` cached tokens followed by the S new ones, [B, S, capacity + S];
            default all cached tokens and the new ones up to itself.
        """
        batch = self.context_mask.shape[0]
        filled = jnp.arange(self.capacity) < self.length[:, None]
        cached = jnp.broadcast_to(filled[:, None], (batch, queries, self.capacity))
        new = jnp.broadcast_to(jnp.tril(jnp.ones((queries, queries), bool)), (batch, queries, queries))
        own = jnp.concatenate([cached, new], axis=-1)
        if mask is not None:
            own = mask & jnp.concatenate([cached, jnp.ones_like(new)], axis=-1)
        text = jnp.broadcast_to(self.context_mask[:, None], (batch, queries, self.context))
        return jnp.concatenate([text, own], axis=-1)[:, None]

    def append(self: Cache, keys: jax.Array, values: jax.Array) -> Cache:
        """Writes the keys and values [L, B, S, H, head_dim] of S new tokens behind each row's filled ones.

        The caller sees to it that every row has room: lengths are not known when this is compiled, and tokens
          beyond the
        capacity would overwrite the last ones.

        Raises:
          ValueError: more new tokens than the capacity.
        """
        if keys.shape[2] > self.capacity:
            raise ValueError(
                f"{keys.shape[2]} tokens do not fit a cache of capacity {self.capacity}; start it with more"
            )

        batch, new_tokens = keys.shape[1:3]
        rows = jnp.arange(batch)[:, None]
        # As an update of a slice would be, it is moved so that it fits.
        start = jnp.minimum(self.length[:, None], self.capacity - new_tokens)
        places = self.context + start + jnp.arange(new_tokens)

        def write(buffer, new):
            # A vmapped update of slices would transpose the whole cache, there and back, for every token.
            new = jnp.moveaxis(new, 0, 2).astype(buffer.dtype)
            return buffer.at[:, rows, :, places].set(new, indices_are_sorted=True, unique_indices=True)

        return dataclasses.replace(
            self,
            keys=write(self.keys, keys),
            values=write(self.values, values),
            length=self.length + keys.shape[2],
        )

    def grown(self: Cache, capacity: int) -> Cache:
        """The same tokens with room for more.

        Raises:
          ValueError: a smaller capacity.
        """
        if capacity < self.capacity:
            raise ValueError(
                f"capacity={capacity} is less than the cache has ({self.capacity}); cut tokens with `keep`"
            )
        keys, values = with_room(self.keys, self.values, capacity - self.capacity)
        return dataclasses.replace(self, keys=keys, values=values)

    def keep(
        self: Cache, indices: Int[jax.Array, "B M"], length: Int[jax.Array, " B"] | None = None
    ) -> Cache:
        """Keeps the given tokens of each row, in the given order; for speculation (accept a path) and editing
        (cut the end).

        Args:
          indices: which filled tokens become tokens 0..M-1.
          length: how many of the M are valid per row; default all M.
        """
        batch, kept = indices.shape

        def gather(buffer):
            tokens = buffer[:, :, :, self.context :]
            chosen = jnp.take_along_axis(tokens, indices[None, :, None, :, None], axis=3)
            return buffer.at[:, :, :, self.context : self.context + kept].set(chosen)

        length = jnp.full((batch,), kept, jnp.int32) if length is None else length
        return dataclasses.replace(self, keys=gather(self.keys), values=gather(self.values), length=length)


def with_room(
    keys: Shaped[jax.Array, "L B H T D"], values: Shaped[jax.Array, "L B H T D"], capacity: int
) -> tuple[Shaped[jax.Array, "L B H K D"], Shaped[jax.Array, "L B H K D"]]:
    """Keys and values with room for `capacity` tokens behind them, as `KVCache` keeps them."""
    room = ((0, 0), (0, 0), (0, 0), (0, capacity), (0, 0))
    return jnp.pad(keys, room), jnp.pad(values, room)


def cached_step(
    stack: Callable[..., Any],
    cache: Cache,
    x: Float[jax.Array, "B S D"],
    mask: Bool[jax.Array, "B S C"] | None = None,
    **shared: Any,
) -> tuple[Float[jax.Array, "B S D"], Cache]:
    """Runs S new tokens through a stack that sees those of a cache.

    Args:
      stack: `jaxtok.nn.transformer.Stack` or what is called like it.
      cache: from `start` or an earlier step.
      x: the tokens, before the first block.
      mask: see `KVCache.visible`.
      **shared: what else all layers share, see `jaxtok.nn.transformer.Block`.

    Returns:
      The tokens behind the last block, and the cache with S more.
    """
    shared["mask"] = cache.visible(x.shape[1], mask)
    x, (keys, values) = stack(x, {"prefix": (cache.keys, cache.values)}, shared, collect="keys_values")
    return x, cache.append(keys, values)
