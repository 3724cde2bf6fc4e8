"""The public function."""

import functools
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels import spmd
from jaxtok.kernels.dispatch import Implementation, choose

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
    """`x / max(|x|, 1e-6)`, float32."""
    x = jnp.asarray(x, jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), NORM_FLOOR)


@overload
def nearest_code(
    z: Array,
    codebook: Array,
    *,
    metric: Score = ...,
    return_distance: Literal[False] = False,
    implementation: Implementation | None = ...,
    shard_codes: bool = ...,
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
    shard_codes: bool = ...,
    interpret: bool = ...,
) -> tuple[jax.Array, jax.Array]: ...


def nearest_code(
    z: Float[Array, "*books M D"],
    codebook: Float[Array, "*books K D"],
    *,
    metric: Score = "euclidean",
    return_distance: bool = False,
    implementation: Implementation | None = None,
    shard_codes: bool = False,
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
      shard_codes: on a mesh, split the codes over the axis "tensor" too (K must divide by its size).
      interpret: run a Pallas kernel in interpret mode.

    Returns:
      int32 codes, and float32 distances if asked for. No gradient flows through either.

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

    def one(z, codebook):
        z, codebook = jax.lax.stop_gradient((z.astype(jnp.float32), codebook.astype(jnp.float32)))
        if metric == "cosine":
            z, codebook = unit(z), unit(codebook)
        if metric != "euclidean":
            weights, bias = -codebook, jnp.zeros(codebook.shape[0], jnp.float32)
        else:
            weights, bias = -2 * codebook, jnp.sum(jnp.square(codebook), axis=-1)
        if not z.shape[0]:
            return jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.float32)
        code_axis = spmd.auto_axes((spmd.CODE_AXIS,)) if shard_codes else ()
        split = None
        if code_axis:
            split = (PartitionSpec(code_axis), PartitionSpec(code_axis))
            if codebook.shape[0] % spmd.devices_of(code_axis):
                raise ValueError(
                    f"{codebook.shape[0]} codes cannot be split over {spmd.devices_of(code_axis)} devices; "
                    "choose a codebook size that divides, or shard_codes=False"
                )

        def local(z, weights, bias):
            codes, score = function(z, weights, bias)
            if code_axis:
                codes = codes + jax.lax.axis_index(code_axis[0]) * weights.shape[0]
                lowest = jax.lax.pmin(score, code_axis)
                codes = jax.lax.pmin(jnp.where(score == lowest, codes, jnp.iinfo(jnp.int32).max), code_axis)
                score = lowest
            return codes, score

        codes, score = spmd.over_tokens(local, (z,), (weights, bias), shared_specs=split)
        if metric != "euclidean":
            return codes, -score
        # The difference, not the score plus |z|^2: near a code that would cancel.
        return codes, jnp.sum(jnp.square(z - codebook[codes]), axis=-1) if return_distance else score

    if z.ndim == 2:
        out = one(z, codebook)
    else:
        books = z.shape[:-2]
        flat = z.reshape(-1, *z.shape[-2:]), codebook.reshape(-1, *codebook.shape[-2:])
        # One codebook after the other: each fills the machine, and tiles of one stay in the cache.
        parts = [one(*pair) for pair in zip(*flat, strict=True)]
        codes, scores = (jnp.stack(part).reshape(*books, -1) for part in zip(*parts, strict=True))
        out = codes, scores
    return out if return_distance else out[0]
