"""Normalisation layers. Statistics are float32 whatever the input: bfloat16 sums of squares lose the small
channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float


class RMSNorm(nn.Module):
    """`scale * x / sqrt(mean(x^2) + epsilon)` over the last axis (arXiv 1910.07467), computed in float32.

    Attributes:
      epsilon: added to the mean square.
      dtype: output dtype.
    """

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*batch D"]) -> Float[jax.Array, "*batch D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * scale).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in float32, with or without learned scale and bias.

    Attributes:
      epsilon: added to the variance.
      affine: whether scale and bias are learned (AdaLN blocks bring their own).
      dtype: output dtype.
    """

    epsilon: float = 1e-6
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*batch D"]) -> Float[jax.Array, "*batch D"]:
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        if self.affine:
            x = x * self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
            x = x + self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return x.astype(self.dtype)


def make_norm(
    kind: str,
    *,
    affine: bool = True,
    epsilon: float = 1e-6,
    dtype: Any = jnp.float32,
    name: str | None = None,
):
    """A normalisation layer by name: "rms", "layer", or "plain", a layer norm without scale and bias.

    Raises:
      ValueError: another name, or an RMS norm without its scale.
    """
    if kind == "rms" and affine:
        return RMSNorm(epsilon=epsilon, dtype=dtype, name=name)
    if kind == "layer":
        return LayerNorm(epsilon=epsilon, affine=affine, dtype=dtype, name=name)
    if kind == "plain":
        return LayerNorm(epsilon=epsilon, affine=False, dtype=dtype, name=name)
    raise ValueError(
        f"norm={kind!r} with affine={affine}; choose 'rms', 'layer' or 'plain' ('rms' always has its scale)"
    )
