"""Codes that nothing is assigned to get a second chance: they are moved to where the features are.

A code is dead when the moving average of its assignments falls below a threshold. It becomes a copy of a live
code plus noise ("split", as in the LBG algorithm) or a token of the batch ("sample"), and everything that is
kept about it starts anew. Both are pure functions of state and additive statistics.
"""

import functools
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.kernels import code_statistics, lookup
from jaxtok.kernels.nearest_code.api import Metric, unit
from jaxtok.kernels.spmd import whole

State = Mapping[str, jax.Array]
Unit = Literal["mean", "tokens"]  # what a threshold is a share of, or counted in
_OCTAVES = 200  # of priorities: float32 has 252, the rest is for the features and for sums


def dead_codes(
    counts: Float[jax.Array, "*books K"], threshold: float, measure: Unit = "mean"
) -> tuple[Bool[jax.Array, "*books K"], jax.Array]:
    """Which codes are dead, and the count [..., 1] that they start anew with.

    Args:
      counts: moving average of the assignments.
      threshold: below which a code is dead; 0 leaves everything alone.
      measure: "mean": the threshold is a share of the mean count, and a revived code starts with the mean, so
        that it has time to gather assignments before it can be dead again. "tokens": it is a number of tokens
        per batch, and a revived code starts with that many.
    """
    mean = jnp.mean(counts, axis=-1, keepdims=True)
    if measure == "mean":
        return counts < threshold * mean, mean
    return counts < threshold, jnp.full_like(mean, threshold)


def replace_codes(
    state: State, dead: jax.Array, vectors: Float[jax.Array, "*books K D"], count: jax.Array | float | int
) -> dict[str, jax.Array]:
    """The state with some codes replaced, everything that is kept about them with it.

    Args:
      state: of the codebook: "codebook" [..., K, D], "counts" [..., K], "sums" [..., K, D]; the last may be
        absent.
      dead: bool [..., K], which.
      vectors: what they become; the others are not read.
      count: their new count, a number or something that broadcasts to [..., K].
    """
    count = jnp.broadcast_to(jnp.asarray(count, jnp.float32), state["counts"].shape)
    new = {"codebook": vectors, "counts": count, "sums": vectors * count[..., None]}
    select = {"counts": dead, "codebook": dead[..., None], "sums": dead[..., None]}
    return {name: jnp.where(select[name], new[name], state[name]) for name in new if name in state}


def split_dead_codes(
    state: State,
    key: jax.Array,
    threshold: float,
    noise: float = 1e-2,
    metric: Metric = "euclidean",
    measure: Unit = "mean",
) -> dict[str, jax.Array]:
    """Moves dead codes beside codes with many assignments (LBG splitting).

    A dead code becomes a copy of a live one, drawn in proportion to the counts, plus noise.

    Args:
      state: see `replace_codes`.
      key: scalar key.
      threshold: see `dead_codes`.
      noise: its standard deviation, as a share of that of the codebook.
      metric: "cosine" normalises.
      measure: see `dead_codes`.
    """
    codebook, counts = state["codebook"], state["counts"]
    dead, start = dead_codes(counts, threshold, measure)
    key_donor, key_noise = jax.random.split(key)
    donors = _in_proportion(whole(jnp.where(dead, 0.0, jnp.maximum(counts, 1e-30))), key_donor)
    spread = noise * jnp.std(codebook, axis=(-2, -1), keepdims=True)
    drawn = jax.random.normal(key_noise, codebook.shape) * spread
    # A look-up does not gather a codebook that is split over a mesh.
    one = codebook.ndim == 2
    copies = lookup(codebook, donors) if one else jnp.take_along_axis(codebook, donors[..., None], axis=-2)
    vectors = copies + drawn
    vectors = unit(vectors) if metric == "cosine" else vectors
    alive = ~jnp.all(dead, axis=-1, keepdims=True)  # without a living code there is nothing to split
    return replace_codes(state, dead & alive, vectors, start)


@functools.partial(jnp.vectorize, signature="(k),()->(k)")
def _in_proportion(weights: Float[jax.Array, " K"], key: jax.Array) -> jax.Array:
    """As many draws as there are weights, by their running sum; Gumbel noise would be K numbers per draw."""
    total = jnp.cumsum(weights)
    places = jax.random.uniform(key, weights.shape) * total[-1]
    # A product that is rounded up to the sum would lie behind the last weight.
    places = jnp.minimum(places, jnp.nextafter(total[-1], jnp.zeros_like(total[-1])))
    return jnp.searchsorted(total, places, side="right").astype(jnp.int32)


def batch_sample(
    z: Float[jax.Array, "M D"],
    size: int,
    uniforms: Float[jax.Array, "M 3"],
    weights: jax.Array,
    expected: jax.Array | float | int = 0,
) -> dict[str, jax.Array]:
    """An additive sample of a batch: `size` (almost) random tokens, as sums.

    Each token falls on one of `size` places with a priority p in [-100, 100] and adds `2^p (1, z)` to it. The
    quotient of the sums is nearly the token of the highest priority, whatever micro-batch or device the
    tokens of a place were on, so that all of them together pick one, which a sample drawn in each could not.
    Tokens sit out at random so that about two fall on a place: in 93 of 100 places all others together then
    weigh less than 1/100.

    Args:
      z: features.
      size: number of places.
      uniforms: three numbers in [0, 1) per token, drawn from the key of its example: place, priority, whether
        it takes part.
      weights: [M], 1 for real tokens and 0 for padding.
      expected: number of tokens in the whole batch as far as the state knows it (what is in this call depends
        on micro-batches); 0 if unknown, then all tokens take part.

    Returns:
      "sample" [size, D] and "sample_weight" [size], see `sampled_vectors`.
    """
    place = jnp.minimum((uniforms[:, 0] * size).astype(jnp.int32), size - 1)
    priority = _OCTAVES * (uniforms[:, 1] - 0.5)
    takes_part = uniforms[:, 2] * expected < 2 * size
    weight, total = code_statistics(z, place, size, weights=jnp.exp2(priority) * weights * takes_part)
    return {"sample": total, "sample_weight": weight}


def sampled_vectors(statistics: State) -> tuple[Float[jax.Array, "*books K D"], Bool[jax.Array, "*books K"]]:
    """The tokens of a `batch_sample`; places without one get one of another place.

    Returns:
      Vectors [..., K, D] and which of the places have a token of their own, bool [..., K].
    """
    weight = statistics["sample_weight"]
    there = weight > 0
    vectors = statistics["sample"] / jnp.where(there, weight, 1.0)[..., None]
    # Empty places take the tokens of the filled ones in turn.
    order = jnp.argsort(~there, axis=-1, stable=True)
    filled = jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1)
    turn = jnp.arange(weight.shape[-1]) % filled
    chosen = jnp.where(there, jnp.arange(weight.shape[-1]), jnp.take_along_axis(order, turn, axis=-1))
    return jnp.take_along_axis(vectors, chosen[..., None], axis=-2), there


def resample_dead_codes(
    state: State,
    statistics: State,
    key: jax.Array,
    threshold: float,
    metric: Metric = "euclidean",
    measure: Unit = "mean",
) -> dict[str, jax.Array]:
    """Replaces dead codes by random tokens of the batch, no two by the same: if there are not enough, some
    wait.

    Args:
      state: see `replace_codes`.
      statistics: with a `batch_sample`.
      key: scalar key; decides which place a dead code takes its token from.
      threshold: see `dead_codes`.
      metric: "cosine" normalises the tokens.
      measure: see `dead_codes`.
    """
    vectors, there = sampled_vectors(statistics)
    order = jax.random.permutation(key, vectors.shape[-2])
    vectors = vectors[..., order, :]
    vectors = unit(vectors) if metric == "cosine" else vectors
    dead, start = dead_codes(state["counts"], threshold, measure)
    return replace_codes(state, dead & there[..., order], vectors, start)
