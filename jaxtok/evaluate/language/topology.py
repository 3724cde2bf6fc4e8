"""Spaces of token embeddings from co-occurrence, and how alike two of them are."""

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxtok.codes import Array
from jaxtok.evaluate.language.tokens import full_mask


def cooccurrence(
    tokens: Int[Array, "B N"], types: int, window: int = 4, mask: Bool[Array, "..."] | None = None
) -> Int[np.ndarray, "K K"]:
    """How often two types are at most `window` apart in a row; symmetric.

    Args:
      tokens: ids below `types`.
      types: K; the table has K^2 entries.
      window: tokens to either side.
      mask: tokens that are meant.

    Raises:
      ValueError: ids outside [0, K).
    """
    tokens = np.asarray(tokens)
    kept = full_mask(tokens, mask)
    if np.any(kept & ((tokens < 0) | (tokens >= types))):
        raise ValueError(f"token ids must be in [0, {types}); number the types that occur first")
    table = np.zeros(types * types, np.int64)
    for distance in range(1, min(window, tokens.shape[1] - 1) + 1):
        both = kept[:, :-distance] & kept[:, distance:]
        pairs = tokens[:, :-distance][both].astype(np.int64) * types + tokens[:, distance:][both]
        table += np.bincount(pairs, minlength=types * types)
    square = table.reshape(types, types)
    return square + square.T


def ppmi(counts: Num[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """Positive pointwise mutual information max(0, ln p(a, b) / (p(a) p(b))); 0 where nothing was counted."""
    counts = counts.astype(np.float64)
    rows, columns, total = counts.sum(axis=1, keepdims=True), counts.sum(axis=0, keepdims=True), counts.sum()
    ratio = np.divide(counts * total, rows * columns, out=np.ones_like(counts), where=counts > 0)
    return np.maximum(np.log(ratio), 0.0)


def cooccurrence_embedding(counts: Num[np.ndarray, "K K"], width: int) -> Float[np.ndarray, "K D"]:
    """Embeddings U sqrt(S) of the `width` largest singular values of the PPMI matrix (Levy & Goldberg 2014).

    Raises:
      ValueError: more dimensions than types.
    """
    if not 1 <= width <= len(counts):
        raise ValueError(f"width={width}: {len(counts)} types have embeddings of 1 to that many dimensions")
    u, s, _ = np.linalg.svd(ppmi(counts), hermitian=True)
    return u[:, :width] * np.sqrt(s[:width])


def procrustes(a: Float[np.ndarray, "K D"], b: Float[np.ndarray, "K E"]) -> float:
    """What the best rotation (with reflection) of `a` leaves of `b`: min_R |a R - b|^2 of centred matrices of
    unit norm, in [0, 2]; 0 for rotated and scaled copies. The narrower one is filled up with zeros.

    Raises:
      ValueError: rows that are all alike.
    """
    a, b = _unit(a), _unit(b)
    return float(2 - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum())


def linear_cka(a: Float[np.ndarray, "K D"], b: Float[np.ndarray, "K E"]) -> float:
    """Linear centred kernel alignment |a' b|^2 / (|a' a| |b' b|) in [0, 1] (arXiv 1905.00414). Rows are
    paired: types of one vocabulary, or documents of two languages.

    Raises:
      ValueError: rows that are all alike.
    """
    a, b = _unit(a), _unit(b)
    norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.linalg.norm(a.T @ b) ** 2 / norms)


def _unit(x: np.ndarray) -> np.ndarray:
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(centred)
    if not norm > 0:
        raise ValueError(f"all {len(x)} rows are alike (or not finite): there is no shape to compare")
    return centred / norm
