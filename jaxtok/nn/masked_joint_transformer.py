"""The network of a masked prior over codes, conditioned on a text (MaskGen-VQ, arXiv 2501.07730)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import CodeSpace, Condition, Vocab
from jaxtok.nn.canvas import Canvas
from jaxtok.nn.joint_transformer import JointTransformer
from jaxtok.nn.linear import Dense
from jaxtok.nn.slots import head_width


class MaskedJointTransformer(nn.Module):
    """Transformer of two streams that predicts masked tokens from the others and a text.

    Attributes:
      vocab: codes and the range "mask", see `masked_vocab`; further ranges are rows that nothing reads.
      tokens: N.
      backbone: what the tokens go through.
      tied: whether the first rows of the table, those of the codes, are the head, without a bias.
      dtype: computation dtype; logits are float32.
    """

    vocab: Vocab
    tokens: int
    backbone: JointTransformer
    tied: bool = True
    dtype: Any = jnp.float32

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        return self.vocab.space

    def setup(self):
        if self.tied and self.space.is_binary:
            raise ValueError("tied=True with bits, which have one logit but two rows; set tied=False")
        init = nn.initializers.truncated_normal(0.02)
        self.table = self.param("table", init, (self.vocab.size, self.backbone.width), jnp.float32)
        self.positions = self.param("positions", init, (self.tokens, self.backbone.width), jnp.float32)
        if not self.tied:
            self.out = Dense(head_width(self.space), kernel_init=init)

    def __call__(
        self,
        codes: Int[jax.Array | np.ndarray, "B N Q"],
        condition: Condition | None = None,
        masked: Bool[jax.Array | np.ndarray, "B N"] | None = None,
        cache: Canvas | None = None,
    ) -> Float[jax.Array, "B N F"]:
        """Logits of every token, float32.

        Args:
          codes: all N tokens; those that are masked are not read.
          condition: what to generate; not needed beside a cache.
          masked: True where a token is masked; None for nowhere.
          cache: result of `start`, whose condition is used.

        Raises:
          ValueError: neither condition nor cache.
        """
        conditioning = (
            self.backbone.conditioning(condition)
            if cache is None
            else (cache.prefix, cache.prefix_mask, cache.vector)
        )
        x = jnp.sum(self.table[self.vocab.from_codes(jnp.asarray(codes))], axis=-2)
        if masked is not None:
            x = jnp.where(jnp.asarray(masked)[..., None], self.table[self.vocab.id("mask")], x)
        x = self.backbone(x + self.positions, conditioning).astype(jnp.float32)
        return x @ self.table[: head_width(self.space)].T if self.tied else self.out(x)

    def start(self, condition: Condition | None, capacity: int, batch: int | None = None) -> Canvas:
        """A canvas on which nothing is known but the condition.

        Args:
          condition: what to generate.
          capacity: at most N tokens; the canvas always has N.
          batch: as many rows as the condition has.

        Raises:
          ValueError: a larger capacity; no condition.
        """
        del batch
        check_capacity(capacity, self.tokens)
        rows = 0 if condition is None else condition.batch
        empty = jnp.zeros((rows, self.tokens, self.space.slots), jnp.int32)
        return self.backbone.canvas(condition, empty)

    def step(
        self,
        cache: Canvas,
        inputs: Int[jax.Array, "B S Q"],
        positions: Int[jax.Array, "B S"],
        mask: Bool[jax.Array, "B S"] | None = None,
    ) -> tuple[Float[jax.Array, "B S F"], Canvas]:
        """Gives the network some tokens and asks it for tokens, see `MaskedTransformer.step`."""
        cache = cache.write(inputs, positions, mask)
        logits = self(cache.codes, None, ~cache.known, cache)
        return jnp.take_along_axis(logits, positions[..., None], axis=1), cache


def check_capacity(capacity: int, tokens: int) -> None:
    """Raises `ValueError` for a canvas of more tokens than the network has positions."""
    if capacity > tokens:
        raise ValueError(f"capacity={capacity}, but this network knows {tokens} positions")
