"""How a gradient passes a quantizer: what is differentiated in place of the step from z to its code q.

Every router returns exactly q in the forward pass.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

Routing = Literal["straight_through", "rotation"]
_FLOOR = 1e-6  # of a norm


def straight_through(z: Float[jax.Array, "*batch D"], q: jax.Array) -> Float[jax.Array, "*batch D"]:
    """The gradient of q is handed to z: `sg(q) + (z - sg(z))` (arXiv 1308.3432)."""
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


@jax.custom_vjp
def rotation_trick(z: Float[jax.Array, "*batch D"], q: Float[jax.Array, "*batch D"]) -> jax.Array:
    """The gradient is rotated and scaled as z is to become q (arXiv 2410.06424).

        q = (|q| / |z|) R z,   dq/dz := (|q| / |z|) R,   R = I - 2 w w^T + 2 v u^T,
        u = z / |z|,  v = q / |q|,  w = (u + v) / |u + v|

    R and the ratio of lengths are constants; norms are at least 1e-6. No gradient reaches q. Where z is not
    finite the value is NaN.
    """
    return propagate_nonfinite(q, z)


def _rotation_forward(z, q):
    return propagate_nonfinite(q, z), (z, q)


def _rotation_backward(saved, gradient):
    z, q = saved
    norm = lambda x: jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _FLOOR)
    u, v = z / norm(z), q / norm(q)
    w = (u + v) / norm(u + v)
    dot = lambda a, b: jnp.sum(a * b, axis=-1, keepdims=True)
    # The transpose of R: gradients travel against the map.
    turned = gradient - 2 * w * dot(w, gradient) + 2 * u * dot(v, gradient)
    return turned * norm(q) / norm(z), jnp.zeros_like(q)


rotation_trick.defvjp(_rotation_forward, _rotation_backward)


def directional(
    z: Float[jax.Array, "*batch D"], q: Float[jax.Array, "*batch D"], noise: jax.Array, variance: float = 5e-3
) -> Float[jax.Array, "*batch D"]:
    """Noise substitution: z plus a vector as long as the quantization error, in a perturbed direction (DiVeQ,
    arXiv 2510.01469).

        z + |q - z| sg(unit(q - z + sqrt(variance) noise))

    The gradient reaches z and, through the length, the code; no commitment loss is needed. Without noise the
    value is q up to rounding.

    Args:
      z: features.
      q: their codes, with gradient.
      noise: standard normal, shaped like z.
      variance: of the perturbation.
    """
    error = q - z
    towards = error + variance**0.5 * noise
    length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(error), axis=-1, keepdims=True), 1e-20))
    norm = jnp.maximum(jnp.linalg.norm(towards, axis=-1, keepdims=True), _FLOOR)
    return z + jax.lax.stop_gradient(towards / norm) * length


def route(kind: Routing) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A router without noise by name.

    Raises:
      ValueError: an unknown name.
    """
    routers = {"straight_through": straight_through, "rotation": rotation_trick}
    if kind not in routers:
        raise ValueError(f"routing={kind!r}; choose one of {sorted(routers)}")
    return routers[kind]


def propagate_nonfinite(
    q: Float[jax.Array, "*batch D"], z: Float[jax.Array, "*batch D"]
) -> Float[jax.Array, "*batch D"]:
    """q with NaN where the features z of a token are not finite: the nearest code of NaN is some code, and
    what is made of it must not look as if it meant something.
    """
    return jnp.where(jnp.all(jnp.isfinite(z), axis=-1, keepdims=True), q, jnp.nan)


def masked_mean(x: Float[jax.Array, "..."], mask: jax.Array | None) -> Float[jax.Array, ""]:
    """Mean over the real tokens and everything that belongs to them. What others hold has no effect, NaN
    included.

    Args:
      x: leads with the axes of the mask.
      mask: True (or 1) where a token is real; None for all.
    """
    if mask is None:
        return jnp.mean(x)
    total = jnp.sum(mask.astype(jnp.float32)) * (x.size // max(mask.size, 1))
    return jnp.sum(masked(x, mask)) / jnp.maximum(total, 1.0)


def masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x with zeros where a token is not real, whatever it holds there: 0 * NaN would be NaN."""
    if mask is None:
        return x
    mask = mask.astype(bool)
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)), x, jnp.zeros((), x.dtype))
