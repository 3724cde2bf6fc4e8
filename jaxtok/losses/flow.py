"""Rectified flow (arXiv 2209.03003): straight lines from data to noise, and the velocity along them.

x_t = (1 - t) z + t e,    v = e - z,    loss = mean |v_hat(x_t, t) - v|^2
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

TimeDistribution = Literal["logit-normal", "uniform", "mode"]


def flow_times(
    uniforms: Float[jax.Array, " B"],
    distribution: str = "logit-normal",
    mode_scale: float = 1.29,
    stratified: bool = False,
) -> Float[jax.Array, " B"]:
    """Times to train at, in [0, 1] (arXiv 2403.03206, section 3.1).

        logit-normal   sigmoid of a standard normal number: the middle more often than the ends
        uniform        U[0, 1]
        mode           1 - u - m (cos^2(pi u / 2) - 1 + u)

    Args:
      uniforms: u in [0, 1), one per example.
      distribution: which; each is its quantile function of u.
      mode_scale: m of "mode", in [-1, 2 / (pi - 2)], where it stays monotonic.
      stratified: put the u of example i into the i-th of B equal parts of [0, 1), for less variance. Each
        example is then drawn by its place in this (micro-)batch.

    Raises:
      ValueError: an unknown distribution, or a scale outside that range.
    """
    u = uniforms.astype(jnp.float32)
    if stratified:
        u = (jnp.arange(u.shape[0]) + u) / u.shape[0]
    if distribution == "uniform":
        return u
    if distribution == "logit-normal":
        return jax.nn.sigmoid(jax.scipy.special.ndtri(u))
    if distribution != "mode":
        raise ValueError(
            f"distribution of times {distribution!r}; choose 'logit-normal', 'uniform' or 'mode'"
        )
    if not -1 <= mode_scale <= 2 / (jnp.pi - 2):
        raise ValueError(f"mode_scale={mode_scale} must lie in [-1, 2 / (pi - 2)]")
    return 1 - u - mode_scale * (jnp.square(jnp.cos(jnp.pi * u / 2)) - 1 + u)


def flow_point(
    data: Float[jax.Array, "B *shape"], noise: Float[jax.Array, "B *shape"], t: Float[jax.Array, " B"]
) -> Float[jax.Array, "B *shape"]:
    """`x_t`: data at time 0, noise at time 1."""
    t = t.reshape(-1, *[1] * (data.ndim - 1))
    return t * noise + (1 - t) * data


def flow_loss(
    velocity: Float[jax.Array, "B *shape"],
    data: Float[jax.Array, "B *shape"],
    noise: Float[jax.Array, "B *shape"],
) -> Float[jax.Array, ""]:
    """Mean over all elements of `(velocity - (noise - data))^2`, float32."""
    return jnp.mean(jnp.square(velocity.astype(jnp.float32) - (noise - data)))
