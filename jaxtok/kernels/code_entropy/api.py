"""The public function."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import Array
from jaxtok.kernels.code_entropy.reference import soft_assignment
from jaxtok.kernels.dispatch import Implementation, choose


def code_entropy(
    z: Float[Array, "M D"],
    codebook: Float[Array, "K D"],
    *,
    scale: float | jax.Array = 1.0,
    affinity: str = "dot",
    weights: jax.Array | None = None,
    implementation: Implementation | None = None,
) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""]]:
    """Mean entropy of the tokens' soft assignments, and entropy of their mean; never holds M times K numbers.

        p_n = softmax_k(scale a_nk),   a = z . e  or  -|z - e|^2,   (mean_n H(p_n), H(mean_n p_n))

    The gradient has its own streamed pass, to z and to the codebook. On a mesh the mean is over all devices'
    tokens. There is no Pallas kernel: the products dominate, and XLA runs them at the speed of the matrix
    units.

    Args:
      z: features, any float dtype.
      codebook: the codes.
      scale: inverse temperature.
      affinity: "dot" (inner product), or "euclidean" (negative squared distance).
      weights: [M], 1 for real tokens and 0 for others; 1 if absent.
      implementation: "xla", or None.

    Returns:
      Both entropies in nats, float32 scalars in [0, log K].

    Raises:
      ValueError: an unknown affinity, or an implementation that does not exist.
    """
    choose("code_entropy", implementation, {"xla": soft_assignment})
    if affinity not in ("dot", "euclidean"):
        raise ValueError(f"affinity={affinity!r}; choose 'dot' or 'euclidean'")
    z, codebook = jnp.asarray(z, jnp.float32), jnp.asarray(codebook, jnp.float32)
    if affinity == "euclidean":  # |z|^2 is the same for all codes; |e|^2 rides in a channel of its own
        z = jnp.concatenate([z, jnp.ones((z.shape[0], 1), jnp.float32)], axis=1)
        squares = jnp.sum(jnp.square(codebook), axis=-1, keepdims=True)
        codebook = jnp.concatenate([2 * codebook, -squares], axis=1)
    weights = jnp.ones(z.shape[0], jnp.float32) if weights is None else weights.astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weights), 1e-12)
    entropy, mass = soft_assignment(z, codebook, scale, weights)
    mean = mass / total
    batch = -jnp.sum(jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1.0)), 0.0))
    return jnp.sum(entropy * weights) / total, batch
