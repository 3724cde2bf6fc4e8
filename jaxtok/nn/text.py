"""A byte-level text encoder that is small enough to train with the prior; nothing to download.

For large frozen encoders see `jaxtok.nn.llama`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxtok.nn.byte_text import BYTE_VOCAB
from jaxtok.nn.rope import rope_tables
from jaxtok.nn.transformer import Block, Stack


class ByteEncoder(nn.Module):
    """Bidirectional transformer over bytes (`jaxtok.nn.byte_text.byte_ids`) that returns every layer's
    output.

    Attributes:
      layers, heads, head_dim: size.
      unroll: see `Stack`.
      dtype: computation dtype.
    """

    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    unroll: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[jax.Array, "B T"], mask: Bool[jax.Array, "B T"] | None = None
    ) -> Float[jax.Array, "L B T D"]:
        """Encodes byte ids (0 is padding); `mask` is True at real positions."""
        width = self.heads * self.head_dim
        x = nn.Embed(BYTE_VOCAB, width, embedding_init=nn.initializers.normal(1.0), name="bytes")(ids).astype(
            self.dtype
        )
        positions = jnp.arange(ids.shape[1], dtype=jnp.float32)[:, None]
        shared: dict[str, Any] = {"rope": rope_tables(positions, (self.head_dim,))}
        if mask is not None:
            shared["mask"] = mask[:, None, None, :]
        block = Block(self.heads, self.head_dim, 4 * width, dtype=self.dtype, parent=None)
        return Stack(block, self.layers, unroll=min(self.unroll, self.layers), name="stack")(
            x, shared=shared, collect="hidden"
        )[1]
