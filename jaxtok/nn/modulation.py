"""Adaptive layer norm (AdaLN, arXiv 2212.09748) and embeddings of a scalar time.

The conditioning vector is one per example, or one per token.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtok.nn.constrain import constrain
from jaxtok.nn.linear import Dense, Initializer
from jaxtok.nn.normalization import LayerNorm


class Modulation(nn.Module):
    """`count` vectors of the model's width from one conditioning vector: `Linear(silu(c))`, split.

    Attributes:
      count: number of vectors.
      width: their width.
      dtype: computation dtype.
      kernel_init: Xavier uniform by default; zeros for AdaLN-Zero, where a fresh block does nothing.
      segments: how many parts of a sequence have vectors of their own.
    """

    count: int
    width: int
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    segments: int = 1

    @nn.compact
    def __call__(self, c: Float[jax.Array, "B *N E"]) -> list[Float[jax.Array, "B _ D"]]:
        features = self.segments * self.count * self.width
        if c.ndim == 3:  # a vector per token is as large as the tokens, so it has to lie as they do
            c = constrain(c, ("data", "fsdp"), None, None)
        out = Dense(features, kernel_init=self.kernel_init, dtype=self.dtype, name="linear")(nn.silu(c))
        # Vectors are small beside the map that makes them: left alone, the partitioner splits them like it.
        if c.ndim == 2:
            out = constrain(out, ("data", "fsdp"), None).reshape(c.shape[0], self.segments, -1)
        elif self.segments == 1:
            out = constrain(out, ("data", "fsdp"), None, None)
        else:
            raise ValueError(
                f"segments={self.segments} with a vector per token; parts of a sequence share one per example"
            )
        return jnp.split(out, self.count, axis=-1)


def spread(vectors: Float[jax.Array, "B S D"], lengths: Sequence[int] | None) -> Float[jax.Array, "B N D"]:
    """Vectors of the parts of a sequence, repeated for the tokens of each part.

    Args:
      vectors: one per part.
      lengths: tokens of each part; None where one vector serves the whole sequence (and stays [B, 1, D]), or
        where every token has its own.

    Raises:
      ValueError: lengths of another number of parts.
    """
    if lengths is None:
        return vectors
    batch, segments, width = vectors.shape
    if segments != len(lengths):
        raise ValueError(
            f"vectors of {segments} parts of a sequence, but lengths={lengths}; give one length per part"
        )
    parts = [jnp.broadcast_to(vectors[:, i : i + 1], (batch, n, width)) for i, n in enumerate(lengths)]
    return jnp.concatenate(parts, axis=1)


class AdaptiveLayerNorm(nn.Module):
    """`LayerNorm(x) * (1 + scale(c)) + shift(c)` as the last normalisation of a network, in the order (scale,
    shift).

    Attributes:
      dtype: computation dtype.
      epsilon: of the norm.
      kernel_init: of the map that makes scale and shift.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-6
    kernel_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B N D"], c: Float[jax.Array, "B *M E"]
    ) -> Float[jax.Array, "B N D"]:
        scale, shift = Modulation(2, x.shape[-1], self.dtype, self.kernel_init, name="modulation")(c)
        return LayerNorm(self.epsilon, affine=False, dtype=self.dtype)(x) * (1 + scale) + shift


class TimeEmbedding(nn.Module):
    """Embedding of a time in [0, 1]: two linear maps around a SiLU, on sinusoids or on the raw scalar.

    Attributes:
      width: output width.
      frequencies: number of sinusoid pairs, spaced geometrically from 1 to `1 / max_period` radians per unit
        after scaling the time; 0 feeds the scalar itself, as Instella-T2I does.
      max_period: slowest period.
      dtype: computation dtype.
      scale: of the time; 1 where the times are those of a diffusion in so many steps, 0, 1, 2, ...
      kernel_init: of the two maps.
    """

    width: int
    frequencies: int = 0
    max_period: float = 10_000.0
    dtype: Any = jnp.float32
    scale: float = 1000.0
    kernel_init: Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, t: Float[jax.Array, " B"]) -> Float[jax.Array, "B D"]:
        features = t[:, None].astype(jnp.float32)
        if self.frequencies:
            angles = features * (np.float32(self.scale) * sinusoid_rates(self.frequencies, self.max_period))
            features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

        def dense(name):
            return Dense(self.width, dtype=self.dtype, kernel_init=self.kernel_init, name=name)

        hidden = constrain(nn.silu(dense("linear_1")(features)), ("data", "fsdp"), None)
        return constrain(dense("linear_2")(hidden), ("data", "fsdp"), None)


def sinusoid_rates(count: int, max_period: float) -> np.ndarray:
    """Radians per unit of `count` sinusoids, `max_period^(-i / count)`, float32 [count]."""
    # Rounded where the released codes round (FlexTok): angles reach 1000, where float32 has steps of 6e-5.
    # The exponential itself is exact.
    places = np.arange(count, dtype=np.float32) * np.float32(-math.log(max_period))
    return np.exp((places / np.float32(count)).astype(np.float64)).astype(np.float32)


def sinusoids(
    x: Float[jax.Array, " B"], width: int, max_period: float = 10_000.0, interleaved: bool = False
) -> Float[jax.Array, "B E"]:
    """Sines and cosines of a number, float32.

    Args:
      x: one number per row.
      width: E, an even number.
      max_period: see `sinusoid_rates`.
      interleaved: sine and cosine of each rate side by side, in place of all sines before all cosines.

    Raises:
      ValueError: an odd width.
    """
    if width % 2:
        raise ValueError(f"width={width} of sinusoids must be even: a sine and a cosine of each rate")
    angles = x.astype(jnp.float32)[:, None] * sinusoid_rates(width // 2, max_period)
    pairs = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.stack(pairs, axis=-1).reshape(x.shape[0], width) if interleaved else jnp.concatenate(pairs, 1)
