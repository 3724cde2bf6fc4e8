"""Representation alignment: hidden tokens of a model should look like the features of a frozen encoder."""

import jax
import jax.numpy as jnp
from jaxtyping import Float


def alignment_loss(
    projected: Float[jax.Array, "B *grid D"], features: Float[jax.Array, "B *feature_grid D"]
) -> Float[jax.Array, ""]:
    """`mean (1 - cos(projected, features))` over images and grid positions (REPA, arXiv 2410.06940).

    The gradient is that of the paper's negative cosine; the 1 makes a perfect match 0. The features are
    constants here, so they may come from any frozen callable: a vision encoder,
    `losses.embedded.DigitFeatures`, an earlier stage.

    Args:
        projected: hidden tokens after the trained projection head, on their grid: [B, H, W, D], [B, N, D],
            ...
        features: targets on a grid of the same rank; resampled to the grid of `projected` if the sizes
            differ.

    Returns:
        A float32 scalar in [0, 2]. All-zero tokens count as orthogonal and have finite gradients.

    Raises:
        ValueError: the ranks or the widths differ.
    """
    if projected.ndim != features.ndim or projected.shape[-1] != features.shape[-1]:
        raise ValueError(
            f"alignment_loss: projected {projected.shape} and features {features.shape} need the same rank "
            "and width; reshape tokens to their grid and project to the width of the features"
        )
    features = resample(jax.lax.stop_gradient(features), projected.shape[1:-1])
    return jnp.mean(1 - _cosine(projected, features))


def resample(features: Float[jax.Array, "B *grid D"], size: tuple[int, ...]) -> Float[jax.Array, "B *size D"]:
    """Linear interpolation of a feature grid to `size` in float32, with antialiasing when it shrinks."""
    features = features.astype(jnp.float32)
    if features.shape[1:-1] == size:
        return features
    return jax.image.resize(features, (features.shape[0], *size, features.shape[-1]), "linear")


def _cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(_unit(x) * _unit(y), axis=-1)


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    # The floor keeps the gradient finite at zero; a token that short has no direction to speak of.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))
