"""What a prior is conditioned on: each conditioner turns a `Condition` into text-like features per layer.

Most return features [L', B, T, E] and a mask bool [B, T]; a prior of L layers reads them through
`for_layers`, so that a text encoder of any depth can feed it layer by layer. The "pooled" ones return one
layer of features and those of the whole text, for transformers of two streams.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.codes import Condition
from jaxtok.nn.class_tokens import known_or_null
from jaxtok.nn.text import ByteEncoder

LayerFeatures = tuple[Float[jax.Array, "L B T E"], Bool[jax.Array, "B T"]]
PooledFeatures = tuple[Float[jax.Array, "B T E"], Float[jax.Array, "B F"], Bool[jax.Array, "B T"]]


class LayerwiseConditioner(nn.Module):
    """Features that a frozen encoder made beforehand: [L', B, T, E] with `batch_axis=1`, or [B, T, E] for all
    layers alike.
    """

    @nn.compact
    def __call__(self, condition: Condition) -> LayerFeatures:
        features = condition.features if condition.batch_axis == 1 else condition.features[None]
        return features, _mask(condition, features)


class ClassConditioner(nn.Module):
    """Class ids int32 [B]; id `classes` means "no class".

    Attributes:
      classes: number of classes.
      width: E.
    """

    classes: int
    width: int

    @nn.compact
    def __call__(self, condition: Condition) -> LayerFeatures:
        features = nn.Embed(self.classes + 1, self.width, name="embedding")(condition.features)[None, :, None]
        return features, _mask(condition, features)

    @nn.nowrap
    def condition(self, labels: jax.Array) -> Condition:
        """Condition of labels, with its null class."""
        null = Condition(jnp.full((1,), self.classes, jnp.int32))
        return Condition(known_or_null(labels, self.classes), null=null)


class TextConditioner(nn.Module):
    """Byte ids int32 [B, T] through an encoder that is trained with the prior.

    Attributes:
      encoder: the byte-level encoder.
    """

    encoder: ByteEncoder

    @nn.compact
    def __call__(self, condition: Condition) -> LayerFeatures:
        features = self.encoder(condition.features, condition.mask)
        return features, _mask(condition, features)


class PooledConditioner(nn.Module):
    """Features "text" [B, T, E] of a frozen text encoder's tokens, and "pooled" [B, F] of the whole text."""

    @nn.compact
    def __call__(self, condition: Condition) -> PooledFeatures:
        features, pooled = condition.features["text"], condition.features["pooled"]
        return features, pooled, _mask(condition, features[None])


class PooledTextConditioner(nn.Module):
    """Byte ids "text" int32 [B, T] through an encoder that is trained with the prior; the whole text is the
    mean of its tokens.

    Attributes:
      encoder: the byte-level encoder.
    """

    encoder: ByteEncoder

    @nn.compact
    def __call__(self, condition: Condition) -> PooledFeatures:
        features = self.encoder(condition.features["text"], condition.mask)[-1]
        mask = _mask(condition, features[None])
        total = jnp.sum(jnp.where(mask[..., None], features, 0), axis=1)
        count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1).astype(features.dtype)
        return features, total / count, mask


def check_condition(condition: Condition | None, needed: bool) -> None:
    """Raises `ValueError` for a condition where the network has none, or the other way round."""
    if (condition is not None) != needed:
        has, given = ("needs a", "no") if needed else ("has no", "a")
        raise ValueError(f"this prior {has} condition, but {given} condition was given")


def for_layers(features: Float[jax.Array, "L B T E"], layers: int) -> jax.Array:
    """Spreads the layers of an encoder over those of a prior: prior layer l reads encoder layer floor(l L' /
    L).
    """
    if features.shape[0] == layers:
        return features
    return features[jnp.arange(layers) * features.shape[0] // layers]


def _mask(condition: Condition, features: Any):
    return jnp.ones(features.shape[1:3], bool) if condition.mask is None else condition.mask
