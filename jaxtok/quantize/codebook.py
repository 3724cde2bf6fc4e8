"""The state of a codebook that is learned without gradient: moving averages, k-means, revival of dead codes.

State is a dictionary: "codebook" [..., K, D], "counts" [..., K] and "sums" [..., K, D]. Everything here is a
  pure
function of it and of additive statistics, so that it is the same on any number of devices and micro-batches.
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
    """
    counts = decay * state["counts"] + (1 - decay) * statistics["counts"]
    sums = decay * state["sums"] + (1 - decay) * statistics["sums"]
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


def replace_codes(
    state: State, dead: jax.Array, vectors: Float[jax.Array, "*books K D"], count: jax.Array | float | int
) -> dict[str, jax.Array]:
    """The state with some codes replaced, everything that is kept about them with it.

    Args:
      state: of the codebook.
      dead: bool [..., K], which.
      vectors: what they become; the others are not read.
      count: their new count, a number or [..., K].
    """
    count = jnp.broadcast_to(jnp.asarray(count, jnp.float32), state["counts"].shape)
    return {
        "codebook": jnp.where(dead[..., None], vectors, state["codebook"]),
        "counts": jnp.where(dead, count, state["counts"]),
        "sums": jnp.where(dead[..., None], vectors * count[..., None], state["sums"]),
    }


def split_dead_codes(
    state: State, key: jax.Array, threshold: float, noise: float = 1e-2
) -> dict[str, jax.Array]:
    """Moves codes that hardly anything is assigned to beside codes with many assignments (LBG splitting).

    A code is dead when its count is below `threshold` times the mean count. It becomes a copy of a live code,
    drawn in proportion to the counts, plus noise.

    Args:
      state: "codebook" [..., K, D], "counts" [..., K], "sums" [..., K, D].
      key: scalar key.
      threshold: share of the mean count; 0 leaves everything alone.
      noise: its standard deviation, as a share of that of the codebook.
    """
    codebook, counts = state["codebook"], state["counts"]
    mean = jnp.mean(counts, axis=-1, keepdims=True)
    dead = counts < threshold * mean
    key_donor, key_noise = jax.random.split(key)
    logits = jnp.where(dead, -jnp.inf, jnp.log(jnp.maximum(counts, 1e-30)))
    donors = jax.random.categorical(key_donor, logits[..., None, :], axis=-1, shape=counts.shape)
    spread = noise * jnp.std(codebook, axis=(-2, -1), keepdims=True)
    drawn = jax.random.normal(key_noise, codebook.shape) * spread
    # With the mean count a revived code has time to gather assignments before it can be dead again.
    return replace_codes(state, dead, jnp.take_along_axis(codebook, donors[..., None], axis=-2) + drawn, mean)


def batch_sample(
    z: Float[jax.Array, "M D"], size: int, uniforms: Float[jax.Array, "M 2"], weights: jax.Array
) -> dict[str, jax.Array]:
    """An additive sample of a batch: `size` (almost) random tokens, as sums.

    Each token falls on one of `size` places with a priority in [-100, 100] and adds `2^priority` times itself there.
    The sum divided by the sum of weights is nearly the token of the highest priority, so that a sum over
    micro-batches or devices picks one token of all, which a sample drawn in each could not. Among n tokens on
    one place the highest two priorities are 200 / (n + 1) apart on average: the token is clean up to a hundred
    tokens per code, and a mixture of a few with many more.

    Args:
      z: features.
      size: number of places.
      uniforms: two numbers in [0, 1) per token, drawn from the key of its example.
      weights: [M], 1 for real tokens and 0 for padding.

    Returns:
      "sample" [size, D] and "sample_weight" [size], see `sampled_vectors`.
    """
    place = jnp.minimum((uniforms[:, 0] * size).astype(jnp.int32), size - 1)
    priority = 200 * uniforms[:, 1] - 100
    weight, total = code_statistics(z, place, size, weights=jnp.exp2(priority) * weights)
    return {"sample": total, "sample_weight": weight}


def sampled_vectors(statistics: State) -> tuple[Float[jax.Array, "*books K D"], jax.Array]:
    """The tokens of a `batch_sample`; places without one get one of another place.

    Returns:
      Vectors [..., K, D] and whether any token was there at all, bool [...].
    """
    weight = statistics["sample_weight"]
    there = weight > 0
    vectors = statistics["sample"] / jnp.where(there, weight, 1.0)[..., None]
    # Empty places take the tokens of the filled ones in turn.
    order = jnp.argsort(~there, axis=-1, stable=True)
    filled = jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1)
    turn = jnp.arange(weight.shape[-1]) % filled
    chosen = jnp.where(there, jnp.arange(weight.shape[-1]), jnp.take_along_axis(order, turn, axis=-1))
    return jnp.take_along_axis(vectors, chosen[..., None], axis=-2), jnp.any(there, axis=-1)


def resample_dead_codes(
    state: State,
    statistics: State,
    key: jax.Array,
    threshold: float,
    metric: Metric = "euclidean",
) -> dict[str, jax.Array]:
    """Replaces codes whose count is below `threshold` times the mean count by random tokens of the batch.

    Args:
      state: of the codebook.
      statistics: with a `batch_sample`.
      key: scalar key; decides which place a dead code takes its token from.
      threshold: share of the mean count.
      metric: "cosine" normalises the tokens.
    """
    vectors, any_token = sampled_vectors(statistics)
    vectors = jax.random.permutation(key, vectors, axis=-2)
    vectors = unit(vectors) if metric == "cosine" else vectors
    mean = jnp.mean(state["counts"], axis=-1, keepdims=True)
    dead = (state["counts"] < threshold * mean) & any_token[..., None]
    return replace_codes(state, dead, vectors, mean)


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
