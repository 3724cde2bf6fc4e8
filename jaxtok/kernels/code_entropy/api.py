"""The public functions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.dispatch import Implementation, choose

_FOLDER = "jaxtok.kernels.code_entropy"
_PLACES = {"xla": "reference", "pallas_tpu": "tpu", "pallas_gpu": "gpu"}
_FORWARD = {name: f"{_FOLDER}.{place}:assign" for name, place in _PLACES.items()}
_BACKWARD = {name: f"{_FOLDER}.{place}:assign_gradient" for name, place in _PLACES.items()}


def code_entropy(
    z: Float[Array, "M D"],
    codebook: Float[Array, "K D"],
    *,
    scale: float | jax.Array = 1.0,
    affinity: str = "dot",
    weights: jax.Array | None = None,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""]]:
    """Mean entropy of the tokens' soft assignments, and entropy of their mean; never holds M times K numbers.

        p_n = softmax_k(scale a_nk),   a = z . e  or  -|z - e|^2,   (mean_n H(p_n), H(mean_n p_n))

    The gradient has its own streamed pass, to z, to the codebook and to the scale. On a mesh the mean is over
    all devices' tokens.

    Args:
      z: features, any float dtype.
      codebook: the codes.
      scale: inverse temperature.
      affinity: "dot" (inner product), or "euclidean" (negative squared distance).
      weights: [M], 1 for real tokens and 0 for others; 1 if absent. They get no gradient.
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None for the best one here (XLA on GPUs).
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      Both entropies in nats, float32 scalars in [0, log K].

    Raises:
      ValueError: an unknown affinity, or an implementation that does not exist or cannot run here.
    """
    if affinity not in ("dot", "euclidean"):
        raise ValueError(f"affinity={affinity!r}; choose 'dot' or 'euclidean'")
    z, codebook = jnp.asarray(z, jnp.float32), jnp.asarray(codebook, jnp.float32)
    if affinity == "euclidean":
        z, codebook = distances_as_products(z, codebook)
    weights = jnp.ones(z.shape[0], jnp.float32) if weights is None else weights.astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weights), 1e-12)
    entropy, mass = soft_assignment(
        z, codebook, scale, weights, implementation=implementation, interpret=interpret
    )
    mean = mass / total
    batch = -jnp.sum(jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1.0)), 0.0))
    return jnp.sum(entropy * weights) / total, batch


def distances_as_products(
    z: Float[jax.Array, "M D"], codebook: Float[jax.Array, "K D"]
) -> tuple[Float[jax.Array, "M E"], Float[jax.Array, "K E"]]:
    """Features and codes whose inner products are `-|z - e|^2`, but for a number that all codes of a feature
    share: |z|^2 is left out, and |e|^2 rides in a channel of its own.
    """
    z = jnp.concatenate([z, jnp.ones((z.shape[0], 1), z.dtype)], axis=1)
    squares = jnp.sum(jnp.square(codebook), axis=-1, keepdims=True)
    return z, jnp.concatenate([2 * codebook, -squares], axis=1)


def soft_assignment(
    z: Float[jax.Array, "M D"],
    codebook: Float[jax.Array, "K D"],
    scale: float | jax.Array,
    weights: Float[jax.Array, " M"],
    *,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> tuple[Float[jax.Array, " M"], Float[jax.Array, " K"]]:
    """Entropy of each token's assignment, and the tokens' weights that each code gets.

    Args:
      z: features, float32.
      codebook: codes, float32.
      scale: of the scores, the inverse temperature.
      weights: of the tokens in the sum, such as a mask; no gradient.
      implementation: see `code_entropy`.
      interpret: likewise.

    Returns:
      Entropies `-sum_k p_nk log p_nk` in nats, and `sum_n weights_n p_nk`.
    """
    passes = tuple(
        choose("code_entropy", implementation, table, interpret) for table in (_FORWARD, _BACKWARD)
    )
    if not z.shape[0]:
        return jnp.zeros(0, jnp.float32), jnp.zeros(codebook.shape[0], jnp.float32)
    return _assignment(passes, interpret, jnp.asarray(scale, jnp.float32) * z, codebook, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _assignment(passes: tuple[Callable[..., Any], Callable[..., Any]], interpret: bool, z, codebook, weights):
    return _forward(passes, interpret, z, codebook, weights)[0]


def _forward(passes, interpret, z, codebook, weights):
    assign = functools.partial(passes[0], interpret=interpret)
    (entropy, top, log_total), mass = spmd.over_tokens(assign, (z, weights), (codebook,), (False, True))
    return (entropy, mass), (z, codebook, weights, entropy, top, log_total)


def _backward(passes, interpret, saved, cotangent):
    z, codebook, weights, entropy, top, log_total = saved
    by_entropy, by_mass = cotangent
    tokens = z, weights, entropy, top, log_total, by_entropy
    gradient = functools.partial(passes[1], interpret=interpret)
    dz, dcodebook = spmd.over_tokens(gradient, tokens, (codebook, by_mass), (False, True))
    return dz, dcodebook, None


_assignment.defvjp(_forward, _backward)
