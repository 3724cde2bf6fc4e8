"""What a network that sees all tokens at once remembers between steps: the condition and the known tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Num

from jaxtok.codes import pytree_dataclass


@pytree_dataclass()
class Canvas:
    """The cache of a bidirectional network.

    Every token of such a network looks at every other one, so that keys and values change wherever a token
    becomes known: there is nothing to keep but the condition, made once, and the tokens themselves.

    Attributes:
      prefix: float [B, P, D], the condition as tokens.
      prefix_mask: bool [B, P], which of them are real.
      codes: int32 [B, N, Q]; float32 [B, N, D] of continuous latents.
      known: bool [B, N], which tokens are known; the others are masked.
      vector: float [B, E], what modulates the blocks; None where nothing does.
      present: bool [B, N], which tokens there are, of rows with lengths; None for all.
    """

    prefix: Any
    prefix_mask: Any
    codes: Any
    known: Any
    vector: Any = None
    present: Any = None

    @property
    def capacity(self) -> int:
        """N, tokens that fit."""
        return self.codes.shape[1]

    def write(
        self,
        codes: Num[jax.Array, "B S Q"],
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S"] | None = None,
    ) -> "Canvas":
        """Makes tokens known; those whose mask is False stay as they are."""
        rows = jnp.arange(positions.shape[0])[:, None]
        # Positions outside are dropped: that is how a token is left alone.
        places = positions if mask is None else jnp.where(mask, positions, self.capacity)
        return dataclasses.replace(
            self,
            codes=self.codes.at[rows, places].set(codes.astype(self.codes.dtype), mode="drop"),
            known=self.known.at[rows, places].set(True, mode="drop"),
        )

    def keep(self, indices: Int[jax.Array, "B M"], length: Int[jax.Array, " B"] | None = None) -> "Canvas":
        """Keeps the given tokens of each row and masks all others; for editing.

        Tokens stay at their places, which are what this network knows them by.

        Args:
          indices: positions of the tokens that stay known, where they are.
          length: how many of the M count per row; default all.
        """
        rows, count = jnp.arange(indices.shape[0])[:, None], indices.shape[1]
        places = indices
        if length is not None:
            places = jnp.where(jnp.arange(count) < length[:, None], indices, self.capacity)
        chosen = jnp.zeros_like(self.known).at[rows, places].set(True, mode="drop")
        return dataclasses.replace(self, known=self.known & chosen)
