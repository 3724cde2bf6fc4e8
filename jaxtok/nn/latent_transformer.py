"""The network of a prior: a transformer over latent tokens that reads the condition as extra keys in every
layer.

It is the skeleton of both Instella-T2I priors (arXiv 2506.21022): layer l of the prior takes layer l of the
text encoder through a linear map of its own as keys and values beside those of the image; text never enters
the residual stream.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Condition
from jaxtok.nn.cache import KVCache, cached_step, with_room
from jaxtok.nn.conditioning import check_condition, for_layers
from jaxtok.nn.constrain import constrain
from jaxtok.nn.linear import Dense
from jaxtok.nn.modulation import AdaptiveLayerNorm, TimeEmbedding
from jaxtok.nn.normalization import RMSNorm
from jaxtok.nn.slots import SlotEmbedding, embedded, head_width
from jaxtok.nn.transformer import Block, Remat, Stack


class LatentTransformer(nn.Module):
    """Transformer over N latent tokens.

    Attributes:
      space: alphabet of a token.
      tokens: N.
      layers, heads, head_dim: size; the width is heads * head_dim.
      causal: predict token i from tokens before it (input: a learned start vector, then the codes); else
        predict all tokens from all.
      timed: modulate every block by an embedding of a time (AdaLN); else RMS norms.
      conditioner: module that turns a `Condition` into features per layer, or None for an unconditional
        prior.
      remat, unroll: see `Stack`.
      dtype: computation dtype; logits are float32.
    """

    space: CodeSpace
    tokens: int
    layers: int
    heads: int
    head_dim: int
    causal: bool
    timed: bool
    conditioner: nn.Module | None = None
    remat: Remat = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    takes_lengths: ClassVar[bool] = True

    def setup(self):
        width = self.heads * self.head_dim
        self.embedding = SlotEmbedding(self.space, width, dtype=self.dtype)
        block = Block(
            self.heads,
            self.head_dim,
            4 * width,
            feed_forward="gelu",
            feed_forward_bias=True,
            modulated=self.timed,
            # The causal network has one more position than it uses, as the released weights have.
            positions=self.tokens + self.causal,
            dtype=self.dtype,
            parent=None,
        )
        self.stack = Stack(block, self.layers, self.remat, min(self.unroll, self.layers))
        self.norm = AdaptiveLayerNorm(dtype=self.dtype) if self.timed else RMSNorm(dtype=self.dtype)
        self.out = Dense(head_width(self.space))
        if self.timed:
            self.time = TimeEmbedding(width, dtype=self.dtype)
        if self.causal:
            self.start_vector = self.param("start", nn.initializers.normal(0.02), (width,), jnp.float32)

    def __call__(
        self,
        codes: Int[jax.Array | np.ndarray, "B N Q"],
        condition: Condition | None = None,
        t: Float[jax.Array | np.ndarray, " B"] | None = None,
        cache: KVCache | None = None,
        present: Bool[jax.Array | np.ndarray, "B N"] | None = None,
    ) -> Float[jax.Array, "B N F"]:
        """Logits of every token, float32.

        Args:
          codes: all N tokens; the causal network reads only those before each token.
          condition: what to generate; not needed beside a cache.
          t: times in [0, 1], for a timed network.
          cache: result of `start`, whose projected condition is used instead of projecting it again.
          present: which tokens there are, those before a row's length; a network that sees all tokens does
            not attend to the others, a causal one reads none of them for one that is there. None for all.

        Raises:
          ValueError: a condition without a conditioner or the other way round, or a time where there is none.
        """
        self._check(condition, t, cache)
        x = self.embedding(jnp.asarray(codes))
        if self.causal:
            first = jnp.broadcast_to(self.start_vector.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
            x = jnp.concatenate([first, x[:, :-1]], axis=1)
        per_layer, context_mask = self._context(condition, cache)
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool)) if self.causal else None
        shared: dict[str, Any] = {
            "mask": _joint_mask(context_mask, causal, x.shape, None if self.causal else present)
        }
        time = self.time(jnp.asarray(t)) if self.timed else None
        if self.timed:
            shared["modulation"] = time
        return self._head(self.stack(x, per_layer, shared)[0], time)

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> KVCache:
        """A cache with the condition's keys and values, projected once per layer, and room for `capacity`
        tokens.

        Args:
          condition: what to generate.
          capacity: tokens that the cache can hold (0 for networks that see all tokens at every step).
          batch: B, needed only without a condition.

        Raises:
          ValueError: see `__call__`; neither condition nor batch.
        """
        self._check(condition, None, None, timed=False)
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch` to make its cache")
        batch = condition.batch if condition is not None else batch
        keys = values = jnp.zeros((self.layers, batch, self.heads, 0, self.head_dim), self.dtype)
        mask = jnp.ones((batch, 0), bool)
        if condition is not None:
            per_layer, mask = self._context(condition, None)
            placeholder = jnp.zeros((batch, 1, self.heads * self.head_dim), self.dtype)
            keys, values = self.stack(placeholder, per_layer, collect="context")[1]
        return KVCache(*with_room(keys, values, capacity), mask, jnp.zeros((batch,), jnp.int32))

    def step(
        self,
        cache: KVCache,
        inputs: jax.Array,
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S C"] | None = None,
    ) -> tuple[Float[jax.Array, "B S F"], KVCache]:
        """Logits of the tokens at `positions`, given the tokens before them; causal networks.

        Args:
          cache: from `start` or an earlier step.
          inputs: for each position the token before it, codes int32 [B, S, Q] or embeddings float [B, S, D].
            At position 0 the start vector is used whatever is given.
          positions: 0..N-1.
          mask: see `KVCache.visible`.

        Returns:
          Logits float32 and the cache with S more tokens.
        """
        x = embedded(self.embedding, inputs)
        x = jnp.where((positions == 0)[..., None], self.start_vector.astype(x.dtype), x)
        x, cache = cached_step(self.stack, cache, x, mask, position_ids=positions)
        return self._head(x, None), cache

    def embed(self, codes: Int[jax.Array, "B S Q"]) -> Float[jax.Array, "B S D"]:
        """Input embeddings of codes."""
        return self.embedding(codes)

    def _head(self, x, time):
        norm: Any = self.norm  # which of the two kinds, `timed` says
        x = norm(x, time) if self.timed else norm(x)
        return constrain(self.out(x.astype(jnp.float32)), ("data", "fsdp"), None, "tensor")

    def _context(self, condition, cache):
        if cache is not None:
            text = cache.context
            return {"prefix": (cache.keys[:, :, :, :text], cache.values[:, :, :, :text])}, cache.context_mask
        if condition is None or self.conditioner is None:
            return {}, None
        features, mask = self.conditioner(condition)
        return {"context": for_layers(features.astype(self.dtype), self.layers)}, mask

    def _check(self, condition, t, cache, timed=None):
        if cache is None:
            check_condition(condition, self.conditioner is not None)
        if (self.timed if timed is None else timed) != (t is not None):
            raise ValueError(
                f"t={'None' if t is None else 'given'}, but this network is "
                f"{'' if self.timed else 'not '}timed"
            )


def _joint_mask(context_mask, causal, shape, present=None):
    """bool [B, 1, N, T + N] over condition and tokens, or None when everything is visible."""
    batch, tokens, _ = shape
    own = jnp.ones((tokens, tokens), bool) if causal is None else causal
    if present is not None:
        own = own & jnp.asarray(present)[:, None]
    if context_mask is None:
        whole = causal is None and present is None
        return None if whole else own.reshape(-1, 1, tokens, tokens)
    text = jnp.broadcast_to(context_mask[:, None], (batch, tokens, context_mask.shape[1]))
    return jnp.concatenate([text, jnp.broadcast_to(own, (batch, tokens, tokens))], axis=-1)[:, None]
