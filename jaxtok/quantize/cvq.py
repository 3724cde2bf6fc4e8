"""Clustering VQ: a codebook learned by gradient whose unused codes are pulled to features (arXiv 2307.15139;
the `clustering_vq` option of TiTok and TA-TiTok).

    u_k <- g u_k + (1 - g) n_k / N,   a_k = exp(-10 K u_k / (1 - g) - 10^-3),   e_k <- (1 - a_k) e_k + a_k z_k

u is the moving average of how often a code is used (0 at first), n_k of N tokens chose it in this step, and
its anchor z_k is the feature nearest to it. A code with its fair share of use (u = 1 / K) stays: its weight
is e^-1000 at g = 0.99; one that was never used moves to its anchor almost entirely.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.kernels import nearest_code
from jaxtok.kernels.nearest_code.api import Metric


def usage_step(
    usage: Float[jax.Array, "*books K"], counts: Float[jax.Array, "*books K"], decay: float
) -> Float[jax.Array, "*books K"]:
    """Moving average of the share of tokens that chose each code; a batch without tokens changes nothing."""
    total = jnp.sum(counts, axis=-1, keepdims=True)
    moved = decay * usage + (1 - decay) * counts / jnp.maximum(total, 1.0)
    return jnp.where(total > 0, moved, usage)


def anchor_weight(usage: Float[jax.Array, "*books K"], decay: float) -> Float[jax.Array, "*books K"]:
    """How far a code moves to its anchor, in [0, 1)."""
    return jnp.exp(-usage * usage.shape[-1] * 10 / (1 - decay) - 1e-3)


def anchors(
    codebook: Float[jax.Array, "*books K D"], z: Float[jax.Array, "*books M D"], metric: Metric = "euclidean"
) -> Float[jax.Array, "*books K D"]:
    """The feature nearest to each code: the look-up with its sides exchanged, blocked over M."""
    nearest = nearest_code(codebook, z, metric=metric)
    return jnp.take_along_axis(z, nearest[..., None], axis=-2)


def towards_anchors(
    codebook: Float[jax.Array, "*books K D"],
    usage: Float[jax.Array, "*books K"],
    features: Float[jax.Array, "*books M D"],
    decay: float,
    metric: Metric = "euclidean",
) -> Float[jax.Array, "*books K D"]:
    """The codebook after a step.

    Args:
      codebook: before it.
      usage: after `usage_step`.
      features: of the batch, or a sample of them.
      decay: g, in [0, 1).
      metric: in which an anchor is near.
    """
    weight = anchor_weight(usage, decay)[..., None]
    return (1 - weight) * codebook + weight * anchors(codebook, features, metric)
