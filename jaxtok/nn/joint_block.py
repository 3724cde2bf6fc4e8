"""A transformer block of two streams that attend to each other (MM-DiT, arXiv 2403.03206).

Tokens and text have maps, norms and feed-forward halves of their own; only attention sees both. Every norm is
shifted, scaled and gated by a vector of the whole condition.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.attention import Attention
from jaxtok.nn.constrain import constrain
from jaxtok.nn.feedforward import FeedForward
from jaxtok.nn.linear import Initializer
from jaxtok.nn.modulation import AdaptiveLayerNorm, Modulation
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.transformer import Collect


class Stream(nn.Module):
    """One of the two streams.

    Attributes:
      heads, head_dim: attention heads and channels per head; the width is their product.
      hidden: inner width of the feed-forward half.
      read_only: whether the other stream only reads it: it has keys and values, and what comes out of it is
        not needed.
      kernel_init: of all maps.
      dtype: computation dtype.
    """

    heads: int
    head_dim: int
    hidden: int
    read_only: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    def setup(self):
        init = self.kernel_init
        self.attention = Attention(
            self.heads, self.head_dim, False, True, dtype=self.dtype, kernel_init=init, out_init=init
        )
        if self.read_only:
            self.norm = AdaptiveLayerNorm(self.dtype, kernel_init=init)
        else:
            self.plain = LayerNorm(1e-6, affine=False, dtype=self.dtype)
            self.modulation = Modulation(6, self.heads * self.head_dim, self.dtype, init)
            self.feed_forward = FeedForward(self.hidden, "gelu", True, self.dtype, init, init)

    def enter(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """What attention sees of x [B, N, D], given the vector c [B, E], and the other four modulations."""
        if self.read_only:
            return self.norm(x, c), []
        shift, scale, *rest = self.modulation(c)
        return self.plain(x) * (1 + scale) + shift, rest

    def keys_values(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of what `enter` gave, [B, H, N, head_dim], for the other stream."""
        if self.read_only:
            # The released blocks have this map too, though nobody asks from here; it costs nothing.
            self.attention.queries(h)
        keys, values = self.attention.keys_values(h)
        return jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)

    def __call__(
        self,
        x: jax.Array,
        h: jax.Array,
        modulations: list[jax.Array],
        other: tuple[jax.Array, jax.Array],
        mask: jax.Array | None,
    ) -> jax.Array:
        """The stream after the block: x and what `enter` made of it, the other stream's keys and values, and
        which of those and of its own may be looked at, bool [B, 1, 1, P + N].
        """
        gate, shift, scale, gate_hidden = modulations
        x = x + gate * self.attention(h, other, mask=mask)[0]
        return x + gate_hidden * self.feed_forward(self.plain(x) * (1 + scale) + shift)


class JointBlock(nn.Module):
    """Text and tokens side by side in one sequence, text first; for `Stack`.

    Attributes:
      heads, head_dim, hidden, kernel_init, dtype: of both streams, see `Stream`.
      last: the block after which the text is not needed any more; it returns the tokens alone.
    """

    heads: int
    head_dim: int
    hidden: int
    last: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: dict[str, Any], shared: dict[str, Any], collect: Collect = "nothing"
    ):
        """Runs the block.

        Args:
          x: [B, T + N, D].
          layer: nothing.
          shared: "segments" (T, N), "modulation" [B, E], and "mask" bool [B, T] of the text that is there.
          collect: "nothing".

        Returns:
          x [B, T + N, D], of the last block [B, N, D], and None.

        Raises:
          ValueError: something else to collect.
        """
        if collect != "nothing":
            raise ValueError(f"collect={collect!r}; a block of two streams collects 'nothing'")
        (text_length, tokens), c, present = shared["segments"], shared["modulation"], shared["mask"]
        shape = (self.heads, self.head_dim, self.hidden)
        rest = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        text_stream = Stream(*shape, read_only=self.last, **rest, name="text")
        token_stream = Stream(*shape, **rest, name="tokens")
        text, image = x[:, :text_length], x[:, text_length:]
        (text_in, text_vectors), (image_in, image_vectors) = (
            text_stream.enter(text, c),
            token_stream.enter(image, c),
        )
        of_text, everything = text_stream.keys_values(text_in), jnp.ones((x.shape[0], tokens), bool)

        def visible(*parts):
            return jnp.concatenate(parts, axis=1)[:, None, None]

        image_out = token_stream(image, image_in, image_vectors, of_text, visible(present, everything))
        if self.last:
            return constrain(image_out, ("data", "fsdp"), None, None), None
        of_image = token_stream.keys_values(image_in)
        text_out = text_stream(text, text_in, text_vectors, of_image, visible(everything, present))
        return constrain(jnp.concatenate([text_out, image_out], axis=1), ("data", "fsdp"), None, None), None
