"""The public function."""

import functools
import math
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.dispatch import Implementation, choose
from jaxtok.kernels.lookup.api import lookup

_FOLDER = "jaxtok.kernels.nearest_code"
_IMPLEMENTATIONS = {
    "xla": f"{_FOLDER}.reference:smallest_score",
    "pallas_tpu": f"{_FOLDER}.tpu:smallest_score",
    "pallas_gpu": f"{_FOLDER}.gpu:smallest_score",
}
Metric = Literal["euclidean", "cosine"]
Score = Literal["euclidean", "cosine", "dot"]  # the last is no distance: long codes win
NORM_FLOOR = 1e-6  # of a vector that is normalised


def unit(x: Float[Array, "*batch D"]) -> Float[jax.Array, "*batch D"]:
    """`x / max(|x|, 1e-6)`, float32; the gradient at 0, where features of padding are, is 0 and not NaN."""
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), NORM_FLOOR**2))


@overload
def nearest_code(
    z: Array,
    codebook: Array,
    *,
    metric: Score = ...,
    return_distance: Literal[False] = False,
    implementation: Implementation | None = ...,
    shard_codes: bool | None = ...,
    interpret: bool = ...,
) -> jax.Array: ...


@overload
def nearest_code(
    z: Array,
    codebook: Array,
    *,
    metric: Score = ...,
    return_distance: Literal[True],
    implementation: Implementation | None = ...,
    shard_codes: bool | None = ...,
    interpret: bool = ...,
) -> tuple[jax.Array, jax.Array]: ...


def nearest_code(
    z: Float[Array, "*books M D"],
    codebook: Float[Array, "*books K D"],
    *,
    metric: Score = "euclidean",
    return_distance: bool = False,
    implementation: Implementation | None = None,
    shard_codes: bool | None = None,
    interpret: bool = False,
) -> Int[jax.Array, "*books M"] | tuple[Int[jax.Array, "*books M"], Float[jax.Array, "*books M"]]:
    """Index of the nearest code, the lowest one of equals; never holds M times K scores.

        euclidean: argmin_k |z - e_k|^2,   cosine: argmax_k z . e_k / (|z| |e_k|),   dot: argmax_k z . e_k

    Everything is float32 at full precision: a distance that is rounded to bfloat16 makes neighbouring codes
      equal.
    On a mesh the tokens are split over the axes "data" and "fsdp".

    Args:
      z: features, any float dtype; leading axes are several codebooks with features of their own.
      codebook: the codes.
      metric: what nearest means. For "cosine" neither side has to be normalised; a vector shorter than 1e-6
        counts as that long.
      return_distance: also return the squared distance (>= 0), the cosine similarity, or the product.
      implementation: "xla", "pallas_tpu", "pallas_gpu", or None for the best one here.
      shard_codes: on a mesh, split the codes over the axis "tensor" too. True needs a K that its size
        divides, None splits where it does, False never splits.
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      int32 codes, and float32 distances if asked for. No gradient flows through either. Codes equal those of
      float64 arithmetic where the best beats the second by 1e-5 (|z|^2 + |e|^2); features that are not finite
      give some code that exists.

    Raises:
      ValueError: shapes that do not fit, an unknown metric, or an implementation that cannot run here.
    """
    z, codebook = jnp.asarray(z), jnp.asarray(codebook)
    if z.ndim != codebook.ndim or z.shape[:-2] != codebook.shape[:-2] or z.shape[-1] != codebook.shape[-1]:
        raise ValueError(
            f"features {z.shape} and codebook {codebook.shape} must be [..., M, D] and [..., K, D] with the "
            "same leading axes and width"
        )
    if metric not in ("euclidean", "cosine", "dot"):
        raise ValueError(f"metric={metric!r}; choose 'euclidean', 'cosine' or 'dot'")
    if not codebook.shape[-2]:
        raise ValueError(f"the codebook {codebook.shape} has no codes")
    function = choose("nearest_code", implementation, _IMPLEMENTATIONS, interpret)
    if interpret:
        function = functools.partial(function, interpret=True)

    def one(pair):
        z, codebook = jax.lax.stop_gradient(tuple(x.astype(jnp.float32) for x in pair))
        if metric == "cosine":
            z, codebook = unit(z), unit(codebook)
        codes, score = _smallest(function, *_products(z, codebook, metric), shard_codes)
        if metric != "euclidean":
            return codes, -score
        # The difference, not the score plus |z|^2: near a code that would cancel.
        return codes, jnp.sum(jnp.square(z - lookup(codebook, codes)), axis=-1) if return_distance else score

    books, tokens = z.shape[:-2], z.shape[-2]
    count = math.prod(books)
    if not count or not tokens:
        out = jnp.zeros((*books, tokens), jnp.int32), jnp.zeros((*books, tokens), jnp.float32)
    elif count == 1:
        out = one((z.reshape(z.shape[-2:]), codebook.reshape(codebook.shape[-2:])))
    else:
        # One codebook after the other: each fills the machine, and tiles of one stay in the cache.
        out = jax.lax.map(one, tuple(x.reshape(count, *x.shape[-2:]) for x in (z, codebook)))
    codes, distances = (x.reshape(*books, tokens) for x in out)
    return (codes, distances) if return_distance else codes


def _products(z: jax.Array, codebook: jax.Array, metric: Score) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, weights and bias: the nearest code is the one with the smallest `bias + z . weights`."""
    if metric == "euclidean":
        return z, -2 * codebook, jnp.sum(jnp.square(codebook), axis=-1)
    return z, -codebook, jnp.zeros(codebook.shape[0], jnp.float32)


def _smallest(function, z: jax.Array, weights: jax.Array, bias: jax.Array, shard_codes: bool | None):
    """Code and score of the smallest one, tokens (and codes, if wanted) split over the current mesh."""
    wanted = () if shard_codes is False else spmd.auto_axes((spmd.CODE_AXIS,))
    code_axis = wanted and spmd.code_axes(weights.shape[0])
    if shard_codes and wanted != code_axis:
        raise ValueError(
            f"{weights.shape[0]} codes cannot be split over {spmd.devices_of(wanted)} devices; "
            "choose a codebook size that divides, or shard_codes=False"
        )
    if not code_axis:
        return spmd.over_tokens(function, (z,), (weights, bias))

    def local(z, weights, bias):
        codes, score = function(z, weights, bias)
        codes = codes + jax.lax.axis_index(code_axis[0]) * weights.shape[0]
        lowest = jax.lax.pmin(score, code_axis)
        # Equals on several devices: the lowest index again.
        return jax.lax.pmin(jnp.where(score == lowest, codes, jnp.iinfo(jnp.int32).max), code_axis), lowest

    split = PartitionSpec(code_axis)
    return spmd.over_tokens(local, (z,), (weights, bias), shared_specs=(split, split))
