"""The network of a masked prior: all tokens attend to all tokens, some of which are masked.

Two forms, those of TiTok's generators (arXiv 2406.07550): BERT's (arXiv 1810.04805; norms after each half,
a norm behind the embeddings, as in MaskGIT, arXiv 2202.04200) and U-ViT's (arXiv 2209.12152; norms before
each half, long skips). The condition stands before the tokens: one class token, or a text as it is.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Condition, Vocab
from jaxtok.nn.canvas import Canvas
from jaxtok.nn.class_tokens import class_condition, class_count, class_ids
from jaxtok.nn.conditioning import check_condition
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm
from jaxtok.nn.slots import head_width
from jaxtok.nn.transformer import Block, Remat, Stack
from jaxtok.nn.unet_stack import UNetStack

Form = Literal["bert", "unet"]


def masked_vocab(space: CodeSpace, classes: int = 0) -> Vocab:
    """The ids that a masked prior needs: codes, the mask, then classes and "no class", if there are any."""
    ranges = (("mask", 1),)
    return Vocab(space, (*ranges, ("class", classes), ("null", 1)) if classes else ranges)


class MaskedTransformer(nn.Module):
    """Transformer that predicts masked tokens from the others.

    Attributes:
      vocab: codes and the range "mask"; a range "class" makes it conditional on a class, a range "null" adds
        "no class", the class whose number is that of the classes. See `masked_vocab`.
      tokens: N.
      layers: blocks; the U-ViT form has one more in the middle.
      heads, head_dim: size; the width is heads * head_dim.
      hidden: inner width of the feed-forward halves.
      form: "bert" or "unet".
      conditioner: module that turns a `Condition` into features, whose last layer is read, in place of a
        class token; or None.
      segments: rows of BERT's table of segments, of which only the first is used; "bert" only.
      remat, unroll: see `Stack`.
      dtype: computation dtype; logits are float32.
    """

    vocab: Vocab
    tokens: int
    layers: int
    heads: int
    head_dim: int
    hidden: int
    form: str = "bert"
    conditioner: nn.Module | None = None
    segments: int = 0
    remat: Remat = "none"
    unroll: int = 1
    dtype: Any = jnp.float32

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        return self.vocab.space

    takes_lengths: ClassVar[bool] = True

    def setup(self):
        width = self.heads * self.head_dim
        if self.form not in ("bert", "unet"):
            raise ValueError(f"form={self.form!r}; choose 'bert' or 'unet'")
        if self.conditioner is not None and self.classes:
            raise ValueError("a conditioner beside a range 'class' in the vocabulary; choose one of them")
        bert = self.form == "bert"
        if self.segments and not bert:
            raise ValueError(f"segments={self.segments}, but only form='bert' has them")
        # BERT's tiny epsilon is kept: rows that are constant do not occur behind learned embeddings.
        epsilon = 1e-12 if bert else 1e-5
        block = Block(
            self.heads,
            self.head_dim,
            self.hidden,
            norm="layer",
            norm_epsilon=epsilon,
            feed_forward="gelu_exact",
            qk_norm=False,
            attention_bias=bert,
            feed_forward_bias=True,
            dtype=self.dtype,
            norm_after=bert,
            out_bias=True,
            parent=None,
        )

        def table(name, rows):
            return self.param(name, nn.initializers.normal(0.02), (rows, width), jnp.float32)

        self.table = table("table", self.vocab.size)
        self.positions = table("positions", self.tokens + self.conditional)
        self.norm = LayerNorm(epsilon=epsilon, dtype=self.dtype)
        if self.segments:
            self.segment_table = table("segment_table", self.segments)
        if self.conditioner is not None:
            self.context = Dense(width, dtype=self.dtype)
        unroll = max(1, min(self.unroll, self.layers))
        stack: Any = Stack if bert else UNetStack
        self.stack: Any = stack(block, self.layers, self.remat, unroll)
        self.out = Dense(head_width(self.space))

    def __call__(
        self,
        codes: Int[jax.Array | np.ndarray, "B N Q"],
        condition: Condition | None = None,
        masked: Bool[jax.Array | np.ndarray, "B N"] | None = None,
        cache: Canvas | None = None,
        present: Bool[jax.Array | np.ndarray, "B N"] | None = None,
    ) -> Float[jax.Array, "B N F"]:
        """Logits of every token, float32.

        Args:
          codes: all N tokens; those that are masked are not read.
          condition: what to generate; not needed beside a cache.
          masked: True where a token is masked; None for nowhere.
          cache: result of `start`, whose condition is used.
          present: which tokens there are; the others are not attended to. None for all.

        Raises:
          ValueError: a condition where the network has none, or the other way round.
        """
        codes = jnp.asarray(codes)
        prefix, mask = (
            self._prefix(condition, codes.shape[0]) if cache is None else (cache.prefix, cache.prefix_mask)
        )
        x = jnp.sum(self.table[self.vocab.from_codes(codes)], axis=-2)
        if masked is not None:
            x = jnp.where(jnp.asarray(masked)[..., None], self.table[self.vocab.id("mask")], x)
        count, first = prefix.shape[1], self.positions[: int(self.conditional)]
        x = jnp.concatenate([prefix + first, x + self.positions[int(self.conditional) :]], axis=1)
        if self.segments:
            x = x + self.segment_table[0]
        x = x.astype(self.dtype)
        present = present if cache is None else cache.present
        shared = {}
        if self.conditioner is not None or present is not None:
            shared["mask"] = self._visible(mask, x, present)
        if self.form == "bert":
            x, _ = self.stack(self.norm(x), None, shared)
        else:
            x = self.norm(self.stack(x, shared))
        return self.out(x[:, count:].astype(jnp.float32))

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> Canvas:
        """A canvas on which nothing is known but the condition.

        Args:
          condition: what to generate.
          capacity: at most N tokens; the canvas always has N.
          batch: B, needed only without a condition.

        Raises:
          ValueError: see `__call__`; a larger capacity; neither condition nor batch.
        """
        if capacity > self.tokens:
            raise ValueError(f"capacity={capacity}, but this network knows {self.tokens} positions")
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch` to make its canvas")
        rows = condition.batch if condition is not None else int(batch)  # type: ignore[arg-type]
        prefix, mask = self._prefix(condition, rows)
        codes = jnp.zeros((rows, self.tokens, self.space.slots), jnp.int32)
        return Canvas(prefix, mask, codes, jnp.zeros((rows, self.tokens), bool))

    def step(
        self,
        cache: Canvas,
        inputs: Int[jax.Array, "B S Q"],
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S"] | None = None,
    ) -> tuple[Float[jax.Array, "B S F"], Canvas]:
        """Gives the network some tokens and asks it for tokens.

        Args:
          cache: from `start` or an earlier step.
          inputs: codes of the tokens at `positions`.
          positions: 0..N-1, none of them twice.
          mask: True where the token is given and known from now on, False where it is only asked for; default
            all are given.

        Returns:
          Logits float32 of the tokens at `positions`, and the canvas with what was given.
        """
        cache = cache.write(inputs, positions, mask)
        logits = self(cache.codes, None, ~cache.known, cache)
        return jnp.take_along_axis(logits, positions[..., None], axis=1), cache

    @property
    def classes(self) -> int:
        """Number of classes; 0 without."""
        return class_count(self.vocab)

    @property
    def conditional(self) -> bool:
        """Whether there is a condition before the tokens."""
        return bool(self.classes) or self.conditioner is not None

    @nn.nowrap
    def class_condition(self, labels: Int[jax.Array, " B"]) -> Condition:
        """Condition of class labels, with "no class" as null where the vocabulary has it."""
        return class_condition(self.vocab, labels)

    def _prefix(self, condition, batch):
        """The condition as tokens float [B, P, D] and which of them are real, bool [B, P]."""
        check_condition(condition, self.conditional)
        if condition is None:
            return jnp.zeros((batch, 0, self.heads * self.head_dim)), jnp.ones((batch, 0), bool)
        if self.conditioner is not None:
            features, mask = self.conditioner(condition)
            return self.context(features[-1]).astype(jnp.float32), mask
        return self.table[class_ids(self.vocab, condition)][:, None], jnp.ones((batch, 1), bool)

    def _visible(self, prefix_mask, x, present):
        shape = x.shape[0], x.shape[1] - prefix_mask.shape[1]
        own = jnp.ones(shape, bool) if present is None else jnp.broadcast_to(jnp.asarray(present), shape)
        return jnp.concatenate([prefix_mask, own], axis=1)[:, None, None]
