"""Pixel losses: means over every element, so that their size does not depend on batch or resolution."""

import jax
import jax.numpy as jnp
from jaxtyping import Float


def smooth_l1(
    x: Float[jax.Array, "*shape"], target: Float[jax.Array, "*shape"], beta: float = 1.0
) -> Float[jax.Array, ""]:
    """Mean over all elements of `d^2 / (2 beta)` where `|d| < beta` and `|d| - beta / 2` elsewhere, d = x -
    target.

    It is L2 near zero (a gradient that vanishes smoothly) and L1 far away (outliers do not dominate). This
    is the Huber loss divided by `beta` (Girshick 2015, arXiv 1504.08083), the parametrisation of
    `torch.nn.SmoothL1Loss`.

    Args:
        x: reconstruction, any float dtype; computed in float32.
        target: what it should be.
        beta: where the two branches meet, in the units of `x`; positive.

    Raises:
        ValueError: `beta` is not positive.
    """
    if beta <= 0:
        raise ValueError(f"smooth_l1 needs beta > 0, got {beta}; beta -> 0 is `l1`")
    distance = jnp.abs(_difference(x, target))
    return jnp.mean(jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta))


def l1(x: Float[jax.Array, "*shape"], target: Float[jax.Array, "*shape"]) -> Float[jax.Array, ""]:
    """Mean over all elements of `|x - target|`, in float32."""
    return jnp.mean(jnp.abs(_difference(x, target)))


def l2(x: Float[jax.Array, "*shape"], target: Float[jax.Array, "*shape"]) -> Float[jax.Array, ""]:
    """Mean over all elements of `(x - target)^2`, in float32 (no factor 1/2)."""
    return jnp.mean(jnp.square(_difference(x, target)))


def _difference(x: jax.Array, target: jax.Array) -> jax.Array:
    # They would be broadcast, and a model of grey images learn to show the mean of the colours.
    if jnp.shape(x) != jnp.shape(target):
        raise ValueError(
            f"a reconstruction of shape {x.shape} is compared with {target.shape}; they must be equal"
        )
    # Cast before subtracting: in bfloat16 a small difference of two large values is mostly rounding.
    return x.astype(jnp.float32) - target.astype(jnp.float32)
