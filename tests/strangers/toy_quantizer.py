"""A quantizer in one file that the library does not know: tests.strangers.toy_quantizer:Toy.

x = clip(P z, -1, 1),   code = round((x + 1) (k - 1) / 2),   value = out(2 code / (k - 1) - 1)
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import CodeSpace, Quantized
from jaxtok.quantize.config import QuantizerConfig


class Rounding(nn.Module):
    """Rounds a few channels to k levels each, straight through.

    Attributes:
      levels: k, of each channel.
      channels: Q, a slot each.
      width: D of features and values.
    """

    levels: int
    channels: int
    width: int

    @property
    def space(self) -> CodeSpace:
        """A slot per channel."""
        return CodeSpace((self.levels,) * self.channels)

    def setup(self):
        self.inward, self.outward = nn.Dense(self.channels), nn.Dense(self.width)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
    ) -> Quantized:
        """Values, codes and how often every level of each slot occurs; no losses."""
        del train, key, temperature
        x = self._bounded(z)
        codes = self._round(x)
        values = self._values(codes) + x - jax.lax.stop_gradient(x)
        counts = jnp.sum(jax.nn.one_hot(codes, self.levels), axis=(0, 1))
        return Quantized(self.outward(values), codes, {}, {"counts": counts})

    def encode(self, z: Float[jax.Array, "B N D"]) -> Int[jax.Array, "B N Q"]:
        """Codes, int32 in [0, k)."""
        return self._round(self._bounded(z))

    def decode(self, codes: Int[jax.Array, "B N Q"]) -> Float[jax.Array, "B N D"]:
        """Values of codes, float32."""
        return self.outward(self._values(codes))

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """There is no state."""
        del statistics, key
        return state

    def _bounded(self, z):
        return jnp.clip(self.inward(z.astype(jnp.float32)), -1, 1)

    def _round(self, x):
        return jnp.round((x + 1) * (self.levels - 1) / 2).astype(jnp.int32)

    def _values(self, codes):
        return 2 * codes / (self.levels - 1) - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(QuantizerConfig):
    """Rounds a few channels to k levels each.

    Attributes:
      levels: k, of each channel.
      channels: number of slots.
    """

    levels: int = 4
    channels: int = 3

    def build(self, width: int) -> Rounding:
        """See `QuantizerConfig.build`."""
        return Rounding(self.levels, self.channels, width)
