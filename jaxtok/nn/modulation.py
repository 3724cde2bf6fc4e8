"""Adaptive layer norm (AdaLN, arXiv 2212.09748) and embeddings of a scalar time."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtok.nn.constrain import constrain
from jaxtok.nn.linear import Dense
from jaxtok.nn.normalization import LayerNorm


class Modulation(nn.Module):
    """`count` vectors of the model's width from one conditioning vector: `Linear(silu(c))`, split.

    Attributes:
      count: number of vectors.
      width: their width.
      zero_init: start from zero (AdaLN-Zero) instead of Xavier.
      dtype: computation dtype.
      segments: how many parts of a sequence have vectors of their own.
    """

    count: int
    width: int
    zero_init: bool = False
    dtype: Any = jnp.float32
    segments: int = 1

    @nn.compact
    def __call__(self, c: Float[jax.Array, "B E"]) -> list[Float[jax.Array, "B S D"]]:
        init = nn.initializers.zeros if self.zero_init else nn.initializers.xavier_uniform()
        features = self.segments * self.count * self.width
        out = Dense(features, kernel_init=init, dtype=self.dtype, name="linear")(nn.silu(c))
        # Vectors are small beside the map that makes them: left alone, the partitioner splits them like it.
        out = constrain(out, ("data", "fsdp"), None)
        return jnp.split(out.reshape(out.shape[0], self.segments, -1), self.count, axis=-1)


def spread(vectors: Float[jax.Array, "B S D"], lengths: Sequence[int] | None) -> Float[jax.Array, "B N D"]:
    """Vectors of the parts of a sequence, repeated for the tokens of each part.

    Args:
      vectors: one per part.
      lengths: tokens of each part; None where one vector serves the whole sequence, which stays [B, 1, D].

    Raises:
      ValueError: lengths of another number of parts.
    """
    batch, segments, width = vectors.shape
    if segments != (1 if lengths is None else len(lengths)):
        raise ValueError(
            f"vectors of {segments} parts of a sequence, but lengths={lengths}; give one length per part, "
            "and None for one part"
        )
    if lengths is None:
        return vectors
    parts = [jnp.broadcast_to(vectors[:, i : i + 1], (batch, n, width)) for i, n in enumerate(lengths)]
    return jnp.concatenate(parts, axis=1)


class AdaptiveLayerNorm(nn.Module):
    """`LayerNorm(x) * (1 + scale(c)) + shift(c)` as the last normalisation of a network, in the order (scale,
    shift).

    Attributes:
      dtype: computation dtype.
      zero_init: start as the layer norm alone.
      epsilon: of the norm.
    """

    dtype: Any = jnp.float32
    zero_init: bool = False
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B N D"], c: Float[jax.Array, "B E"]) -> Float[jax.Array, "B N D"]:
        scale, shift = Modulation(2, x.shape[-1], self.zero_init, self.dtype, name="modulation")(c)
        return LayerNorm(self.epsilon, affine=False, dtype=self.dtype)(x) * (1 + scale) + shift


class TimeEmbedding(nn.Module):
    """Embedding of a time in [0, 1]: two linear maps around a SiLU, on sinusoids or on the raw scalar.

    Attributes:
      width: output width.
      frequencies: number of sinusoid pairs, spaced geometrically from 1 to `1 / max_period` radians per unit
        after scaling the time by 1000; 0 feeds the scalar itself, as Instella-T2I does.
      max_period: slowest period.
      dtype: computation dtype.
    """

    width: int
    frequencies: int = 0
    max_period: float = 10_000.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: Float[jax.Array, " B"]) -> Float[jax.Array, "B D"]:
        features = t[:, None].astype(jnp.float32)
        if self.frequencies:
            # Rounded where the released code rounds (FlexTok): angles reach 1000, where float32 has steps of
            # 6e-5. The exponential itself is exact.
            places = np.arange(self.frequencies, dtype=np.float32) * np.float32(-math.log(self.max_period))
            rates = np.exp((places / np.float32(self.frequencies)).astype(np.float64)).astype(np.float32)
            angles = features * (np.float32(1000) * rates)
            features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        hidden = nn.silu(Dense(self.width, dtype=self.dtype, name="linear_1")(features))
        hidden = constrain(hidden, ("data", "fsdp"), None)
        return constrain(Dense(self.width, dtype=self.dtype, name="linear_2")(hidden), ("data", "fsdp"), None)
