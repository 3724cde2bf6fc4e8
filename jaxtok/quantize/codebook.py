"""The state of a codebook that is learned without gradient: moving averages and k-means.

State is a dictionary: "codebook" [..., K, D], "counts" [..., K] and "sums" [..., K, D]. Everything here is a
pure function of it and of additive statistics, so that it is the same on any number of devices and
micro-batches.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.kernels import code_statistics, nearest_code
from jaxtok.kernels.nearest_code.api import Metric, unit

State = Mapping[str, jax.Array]


def moving_average_update(
    state: State,
    statistics: State,
    decay: float,
    epsilon: float = 1e-5,
    metric: Metric = "euclidean",
    weights: Float[jax.Array, "*books K"] | None = None,
) -> dict[str, jax.Array]:
    """One exponential-moving-average step of a codebook.

        n <- decay n + (1 - decay) counts,  s <- decay s + (1 - decay) sums,
        e = s / (N (n + epsilon) / (N + K epsilon)),  N = sum n       (and e / |e| for the cosine)

    Args:
      state: "codebook" [..., K, D], "counts" [..., K], "sums" [..., K, D].
      statistics: "counts" and "sums" of the same shapes, summed over the whole batch, mesh and micro-batches.
      decay: in [0, 1).
      epsilon: Laplace smoothing, keeps codes without assignments finite.
      metric: "cosine" keeps the codes on the unit sphere.
      weights: factor of `1 - decay` per code, in [0, 1]: 0 keeps the averages of a code.
    """
    keep: jax.Array | float = decay
    keep_sums: jax.Array | float = decay
    if weights is not None:
        keep = 1 - (1 - decay) * weights
        keep_sums = keep[..., None]
    counts = keep * state["counts"] + (1 - keep) * statistics["counts"]
    sums = keep_sums * state["sums"] + (1 - keep_sums) * statistics["sums"]
    total = jnp.sum(counts, axis=-1, keepdims=True)
    smoothed = (counts + epsilon) / (total + counts.shape[-1] * epsilon) * total
    codebook = sums / smoothed[..., None]
    codebook = unit(codebook) if metric == "cosine" else codebook
    # A depth that dropout left out, or a batch of padding, says nothing: no decay either.
    told = jnp.sum(statistics["counts"], axis=-1) > 0
    new = {"codebook": codebook, "counts": counts, "sums": sums}
    return {
        name: jnp.where(told.reshape(*told.shape, *(1,) * (value.ndim - told.ndim)), value, state[name])
        for name, value in new.items()
    }


def kmeans(
    z: Float[jax.Array, "M D"],
    means: Float[jax.Array, "K D"],
    iterations: int = 10,
    metric: Metric = "euclidean",
    weights: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Lloyd's algorithm from given means.

    Args:
      z: points.
      means: where it starts.
      iterations: how often points are assigned and means moved. A cluster without points stays.
      metric: "cosine" assigns by angle and keeps the means on the unit sphere (spherical k-means).
      weights: [M] of the points, such as a mask.

    Returns:
      State of a codebook: the means, their counts in the last assignment, and means times counts.
    """
    z = unit(z) if metric == "cosine" else z.astype(jnp.float32)

    def step(carry, _):
        means, _ = carry
        codes = nearest_code(z, means, metric=metric)
        counts, sums = code_statistics(z, codes, means.shape[0], weights=weights)
        moved = sums / jnp.maximum(counts, 1e-12)[:, None]
        moved = unit(moved) if metric == "cosine" else moved
        return (jnp.where(counts[:, None] > 0, moved, means), counts), None

    start = means.astype(jnp.float32), jnp.zeros(means.shape[0], jnp.float32)
    (means, counts), _ = jax.lax.scan(step, start, length=iterations)
    return {"codebook": means, "counts": counts, "sums": means * counts[:, None]}


def random_points(
    z: Float[jax.Array, "M D"], size: int, key: jax.Array, weights: jax.Array | None = None
) -> Float[jax.Array, "K D"]:
    """`size` random tokens, without repetition where there are enough; padding is never among them unless
    there is nothing else.
    """
    tokens = z.shape[0]
    scores = (
        jax.random.uniform(key, (tokens,))
        if weights is None
        else jnp.where(weights > 0, jax.random.uniform(key, (tokens,)), -1.0)
    )
    order = jnp.argsort(-scores)
    real = tokens if weights is None else jnp.maximum(jnp.sum(weights > 0), 1)
    return z[order[jnp.arange(size) % real]]
