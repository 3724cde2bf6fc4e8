"""Beam search over the depths of a residual quantizer: the nearest code at one depth is not always the one
that leaves the best residual for the next.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.kernels import residual_codes
from jaxtok.quantize.vq import VectorQuantizer

_TOKENS = 1024  # whose distances to all codes exist at a time


def nearest_codes(
    x: Float[jax.Array, "M D"], codebook: Float[jax.Array, "K D"], count: int
) -> tuple[Int[jax.Array, "M C"], Float[jax.Array, "M C"]]:
    """The `count` nearest codes, nearest first, and their squared distances.

    Holds K scores for a block of tokens at a time.
    """
    half = jnp.sum(jnp.square(codebook), axis=-1) / 2

    def block(rows):
        scores = jnp.dot(rows, codebook.T, precision="highest") - half
        _, codes = jax.lax.top_k(scores, count)
        return codes, jnp.sum(jnp.square(rows[:, None] - codebook[codes]), axis=-1)

    if x.shape[0] <= _TOKENS:
        return block(x)
    padded = jnp.pad(x, ((0, -x.shape[0] % _TOKENS), (0, 0))).reshape(-1, _TOKENS, x.shape[1])
    codes, distances = jax.lax.map(block, padded)
    return codes.reshape(-1, count)[: x.shape[0]], distances.reshape(-1, count)[: x.shape[0]]


def beam_codes(
    x: Float[jax.Array, "M D"],
    codebooks: list[Float[jax.Array, "K D"]],
    beam: int,
    weights: tuple[float, ...] = (),
) -> Int[jax.Array, "M Q"]:
    """Codes of the best path through the depths.

    A path's score is the weighted sum over depths of its squared residuals; `beam` paths survive each depth,
    every one of which tries its `beam` nearest codes.

    Args:
      x: features.
      codebooks: of the depths, Euclidean.
      beam: number of paths; 1 is the greedy choice.
      weights: of the depths in the score; () for 1.
    """
    tokens, width = x.shape
    residual, score = x[:, None], jnp.zeros((tokens, 1))
    path = jnp.zeros((tokens, 1, 0), jnp.int32)
    for codebook, weight in zip(codebooks, weights or (1.0,) * len(codebooks), strict=True):
        tries = min(beam, codebook.shape[0])
        codes, distances = nearest_codes(residual.reshape(-1, width), codebook, tries)
        paths = residual.shape[1]
        codes, distances = codes.reshape(tokens, paths, tries), distances.reshape(tokens, paths, tries)
        total = (score[..., None] + weight * distances).reshape(tokens, -1)
        lowest, chosen = jax.lax.top_k(-total, min(beam, paths * tries))
        score = -lowest
        parent, code = chosen // tries, jnp.take_along_axis(codes.reshape(tokens, -1), chosen, axis=1)
        path = jnp.concatenate(
            [jnp.take_along_axis(path, parent[..., None], axis=1), code[..., None]], axis=-1
        )
        residual = jnp.take_along_axis(residual, parent[..., None], axis=1) - codebook[code]
    return path[:, 0].astype(jnp.int32)


def stack_codes(
    quantizers: tuple[Any, ...],
    x: Float[jax.Array, "B N D"],
    beam: int = 1,
    weights: tuple[float, ...] = (),
) -> Int[jax.Array, "B N Q"] | None:
    """Codes of all depths of a stack at once, if its quantizers only look for the nearest of their codes.

    Args:
      quantizers: bound modules, of each depth; () if residuals are scaled between them.
      x: features.
      beam, weights: see `beam_codes`.

    Returns:
      Codes, or None where the choice must be made depth by depth.

    Raises:
      ValueError: a beam over quantizers that cannot be searched.
    """
    plain = bool(quantizers) and all(
        isinstance(q, VectorQuantizer)
        and (q.metric, q.slots, q.projected, q.affine) == ("euclidean", 1, False, False)
        for q in quantizers
    )
    if beam > 1 and not plain:
        raise ValueError(
            f"beam={beam} needs Euclidean vector quantizers of one slot, without projections, affine=True or "
            "scales between the depths; use beam=1 for others"
        )
    if not plain:
        return None
    books, flat = [q.codebook for q in quantizers], x.reshape(-1, x.shape[-1])
    if beam > 1:
        books = [jax.lax.stop_gradient(book) for book in books]
        codes = beam_codes(jax.lax.stop_gradient(flat), books, beam, weights)
    elif len({book.shape for book in books}) == 1:
        codes = residual_codes(flat, jnp.stack(books))[0]
    else:
        return None
    return codes.reshape(*x.shape[:2], -1)
