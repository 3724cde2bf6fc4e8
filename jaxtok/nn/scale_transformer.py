"""The network of a next-scale prior (VAR, arXiv 2404.02905): all tokens of a scale at once, given the scales
before it.

The sequence is that of the scales, coarse to fine. Where a token is to be predicted the network reads what
the tokenizer makes of the coarser scales there (the sum so far, at the size of the scale), not the token
before it; the single token of the first scale reads the condition. A token attends to all tokens of its own
scale and of those before. The condition, one vector, also modulates every block.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Condition, Layout, pytree_dataclass
from jaxtok.nn.cache import KVCache
from jaxtok.nn.conditioning import check_condition
from jaxtok.nn.constrain import constrain
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import AdaptiveLayerNorm, Modulation
from jaxtok.nn.slots import head_width
from jaxtok.nn.transformer import Block, Remat, Stack


@pytree_dataclass()
class ScaleCache(KVCache):
    """A cache of the scales so far.

    Attributes:
      conditioning: [B, D], the vector of the condition.
    """

    conditioning: Any


def modulation_start(deviation: float) -> Any:
    """Initialiser of modulations (shift, scale, gate, twice), of a kernel [E, 6 D] or of vectors [6, D]:
    normal with this deviation, halved, but for the gates, which are almost closed, so that a fresh block
    passes on what it gets.
    """
    parts = np.array([0.5, 0.5, 1e-5, 0.5, 0.5, 1e-5], np.float32)

    def draw(key, shape, dtype=jnp.float32):
        by_row = parts[:, None] if shape[0] == 6 else np.repeat(parts, shape[-1] // 6)
        return deviation * by_row * jax.random.normal(key, shape, dtype)

    return draw


class ScaleTransformer(nn.Module):
    """Transformer over the scales of a latent.

    Attributes:
      space: alphabet of a token.
      layout: its scales.
      features: channels of what the tokenizer makes of coarser scales.
      layers, heads, head_dim: size; the width is heads * head_dim.
      hidden: inner width of the feed-forward halves.
      conditioner: module that turns a `Condition` into one token, such as `ClassPrefix`; None for a learned
        vector.
      cosine: whether attention compares by cosine, with a learned factor per head; else the scores have the
        factor 0.25 / sqrt(head_dim).
      shared_modulation: one modulation for all layers, to which each adds vectors of its own.
      norm_epsilon: of the norms.
      remat, unroll: see `Stack`.
      dtype: computation dtype; logits are float32.
    """

    space: CodeSpace
    layout: Layout
    features: int
    layers: int
    heads: int
    head_dim: int
    hidden: int
    conditioner: nn.Module | None = None
    cosine: bool = True
    shared_modulation: bool = False
    norm_epsilon: float = 1e-6
    remat: Remat = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    @property
    def tokens(self) -> int:
        """N."""
        return self.layout.tokens

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_dim

    def setup(self):
        if not self.layout.scales:
            raise ValueError(f"layout={self.layout} has no scales; a next-scale prior needs them")
        width, deviation = self.width, math.sqrt(1 / (3 * self.width))
        start = nn.initializers.normal(deviation)
        dense = lambda features, **kwargs: Dense(features, dtype=self.dtype, kernel_init=start, **kwargs)
        shared = self.shared_modulation
        own = modulation_start(width**-0.5 if shared else deviation)
        block = Block(
            self.heads,
            self.head_dim,
            self.hidden,
            norm="layer",
            norm_epsilon=self.norm_epsilon,
            feed_forward="gelu",
            qk_norm="cosine" if self.cosine else False,
            attention_bias=True,
            feed_forward_bias=True,
            modulated=True,
            dtype=self.dtype,
            key_bias=False,
            attention_scale=None if self.cosine else 0.25 / math.sqrt(self.head_dim),
            shared_modulation=shared,
            kernel_init=start,
            out_init=nn.initializers.normal(deviation / math.sqrt(2 * self.layers)),
            modulation_init=own,
            parent=None,
        )
        self.stack = Stack(block, self.layers, self.remat, min(self.unroll, self.layers))
        if shared:
            self.modulation = Modulation(6, width, dtype=self.dtype, kernel_init=start)
        self.word = dense(width)
        first = self.layout.scale(0).stop
        self.start_table = self.param("start", start, (first, width), jnp.float32)
        self.positions = self.param("positions", start, (self.tokens, width), jnp.float32)
        self.level_table = self.param("levels", start, (len(self.layout.scales), width), jnp.float32)
        if self.conditioner is None:
            self.conditioning_vector = self.param("conditioning", start, (width,), jnp.float32)
        half, little = nn.initializers.normal(0.5 * deviation), nn.initializers.normal(0.02 * deviation)
        self.norm = AdaptiveLayerNorm(jnp.float32, self.norm_epsilon, half)
        self.out = Dense(head_width(self.space), kernel_init=little)

    def __call__(
        self,
        codes: Int[jax.Array | np.ndarray, "B n Q"],
        condition: Condition | None,
        inputs: Float[jax.Array, "B m C"],
        branches: Float[jax.Array, "L 2 B"] | None = None,
    ) -> Float[jax.Array, "B n F"]:
        """Logits of every token given the scales before its own, float32.

        Args:
          codes: of all scales or of the first ones; only their number is read.
          condition: what to generate.
          inputs: what the tokenizer makes of coarser scales, for all of these tokens but those of the first
            scale; see `ScaleCodec.next_inputs`.
          branches: factors of what each half of each block adds, for stochastic depth.

        Raises:
          ValueError: a condition without a conditioner or the other way round, or another number of inputs.
        """
        conditioning, count, first = (
            self._conditioning(condition, codes.shape[0]),
            codes.shape[1],
            self.start_table.shape[0],
        )
        if inputs.shape[1] != count - first:
            raise ValueError(
                f"{inputs.shape[1]} inputs for {count} tokens; all but the {first} of the first scale need "
                "one"
            )
        x = jnp.concatenate([self._first(conditioning), self.word(inputs)], axis=1) + self._places()[:count]
        levels = self.layout.levels[:count]
        seen = jnp.asarray(levels[:, None] >= levels[None])[None, None]
        shared = {"mask": seen, "modulation": self._modulation(conditioning)}
        per_layer = {} if branches is None else {"branches": branches.astype(self.dtype)}
        x, _ = self.stack(x.astype(self.dtype), per_layer, shared)
        return self._head(x, conditioning)

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> ScaleCache:
        """A cache that knows the condition, with room for `capacity` tokens.

        Args:
          condition: what to generate.
          capacity: N, or fewer tokens.
          batch: B, needed only without a condition.

        Raises:
          ValueError: see `__call__`; neither condition nor batch.
        """
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch` to make its cache")
        conditioning = self._conditioning(condition, batch)
        rows = conditioning.shape[0]
        empty = jnp.zeros((self.layers, rows, self.heads, capacity, self.head_dim), self.dtype)
        return ScaleCache(
            empty, empty, jnp.ones((rows, 0), bool), jnp.zeros((rows,), jnp.int32), conditioning
        )

    def step(
        self,
        cache: ScaleCache,
        inputs: jax.Array,
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S C"] | None = None,
    ) -> tuple[Float[jax.Array, "B S F"], KVCache]:
        """Logits of the tokens at `positions`, given the scales before theirs.

        Args:
          cache: from `start` or an earlier step; it holds the tokens before those at `positions`.
          inputs: float [B, S, C], as of `__call__`; of tokens of the first scale anything.
          positions: 0..N-1, of one scale or of several that follow each other.
          mask: see `KVCache.visible`; default all cached tokens, and the new ones of the same scale or of
            those before it.

        Returns:
          Logits float32 and the cache with S more tokens.

        Raises:
          ValueError: codes as inputs.
        """
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise ValueError(
                f"inputs are {inputs.dtype}, codes perhaps; a next-scale prior reads what the tokenizer "
                "makes of them, see `ScaleCodec.inputs`"
            )
        x = self._embed(inputs, positions, cache.conditioning)
        if mask is None:
            levels = jnp.asarray(self.layout.levels)[positions]
            new = levels[:, :, None] >= levels[:, None]
            cached = jnp.ones((*positions.shape, cache.capacity), bool)
            mask = jnp.concatenate([cached, new], axis=-1)
        visible = cache.visible(x.shape[1], mask)
        return self._advance(cache, x, (cache.keys, cache.values), visible)

    def step_scale(
        self, cache: ScaleCache, inputs: Float[jax.Array, "B S C"], scale: int
    ) -> tuple[Float[jax.Array, "B S F"], KVCache]:
        """`step` with all tokens of one scale, on a cache that holds exactly the scales before it: it attends
        at their keys alone and needs no mask.

        Args:
          cache: with at least as much room.
          inputs: see `step`.
          scale: static.
        """
        place = self.layout.scale(scale)
        positions = jnp.broadcast_to(jnp.arange(place.start, place.stop), inputs.shape[:2])
        x = self._embed(inputs, positions, cache.conditioning)
        prefix = (cache.keys[:, :, :, : place.start], cache.values[:, :, :, : place.start])
        return self._advance(cache, x, prefix, None)

    def _advance(self, cache, x, prefix, mask):
        shared = {"mask": mask, "modulation": self._modulation(cache.conditioning)}
        x, (keys, values) = self.stack(x, {"prefix": prefix}, shared, collect="keys_values")
        return self._head(x, cache.conditioning), cache.append(keys, values)

    def _embed(self, inputs, positions, conditioning):
        first = self._first(conditioning)
        start = jnp.take_along_axis(first, jnp.minimum(positions, first.shape[1] - 1)[..., None], axis=1)
        x = jnp.where((positions < first.shape[1])[..., None], start, self.word(inputs))
        return (x + self._places()[positions]).astype(self.dtype)

    def _conditioning(self, condition, batch):
        check_condition(condition, self.conditioner is not None)
        if self.conditioner is None:
            return jnp.broadcast_to(self.conditioning_vector, (batch, self.width))
        return self.conditioner(condition)[0][:, 0]

    def _first(self, conditioning):
        return conditioning[:, None] + self.start_table

    def _places(self):
        return self.positions + self.level_table[self.layout.levels]

    def _modulation(self, conditioning):
        conditioning = conditioning.astype(self.dtype)
        return (
            jnp.concatenate(self.modulation(conditioning), axis=1) if self.shared_modulation else conditioning
        )

    def _head(self, x, conditioning):
        x = self.norm(x.astype(jnp.float32), conditioning)
        return constrain(self.out(x), ("data", "fsdp"), None, "tensor")
