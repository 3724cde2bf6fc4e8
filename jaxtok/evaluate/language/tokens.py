"""Token ids and n-grams."""

import numpy as np
from jaxtyping import Bool, Int

from jaxtok.codes import Array, CodeSpace


def token_ids(codes: Int[Array, "B N Q"], space: CodeSpace) -> Int[np.ndarray, "B N"]:
    """One id per token: the joint index of its slots, or, where that exceeds an int64, a number for each
    combination that occurs (in the order of the slots' values).

    Raises:
      ValueError: another number of slots.
    """
    codes = np.asarray(codes)
    if codes.shape[-1] != space.slots:
        raise ValueError(f"codes of shape {codes.shape} have not the {space.slots} slots of the space")
    if space.size < 2**62:
        return np.asarray(space.join(codes)).astype(np.int64)
    rows = codes.reshape(-1, space.slots)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(codes.shape[:2]).astype(np.int64)


def full_mask(tokens: np.ndarray, mask: Array | None) -> Bool[np.ndarray, "B N"]:
    """bool [B, N] from an optional mask: None keeps all, [B] whole rows.

    Raises:
      ValueError: tokens that are not [B, N], or a mask of another shape or dtype.
    """
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"tokens are {tokens.dtype}{list(tokens.shape)}; these statistics take integers [B, N], see "
            "token_ids"
        )
    if mask is None:
        return np.ones(tokens.shape, bool)
    kept = np.asarray(mask)
    if kept.dtype != bool or kept.shape not in (tokens.shape, tokens.shape[:1]):
        raise ValueError(f"mask is {kept.dtype}{list(kept.shape)}; use bool [B] or [B, N] of {tokens.shape}")
    return np.broadcast_to(kept.reshape(len(kept), -1), tokens.shape)


def ngrams(
    tokens: Int[Array, "B N"], n: int = 1, mask: Bool[Array, "..."] | None = None
) -> Int[np.ndarray, " M"]:
    """A number for each n-gram, 0 to (types - 1), in the order of the text. None goes over the end of a row
    or has a masked token.

    Raises:
      ValueError: n is below 1, or no n-gram is left.
    """
    tokens = np.asarray(tokens)
    kept = full_mask(tokens, mask)
    if n < 1 or n > tokens.shape[1]:
        raise ValueError(f"n={n}: n-grams of rows of {tokens.shape[1]} tokens have 1 to that many tokens")
    single = np.unique(tokens, return_inverse=True)[1].reshape(tokens.shape)
    ids, whole = single, kept
    for number in range(1, n):
        pairs = ids[:, :-1] * (int(single.max()) + 1) + single[:, number:]
        ids = np.unique(pairs, return_inverse=True)[1].reshape(pairs.shape)
        whole = whole[:, :-1] & kept[:, number:]
    if not whole.any():
        raise ValueError(f"no row has {n} tokens in a row that the mask keeps")
    return np.unique(ids[whole], return_inverse=True)[1]


def ngram_counts(
    tokens: Int[Array, "B N"], n: int = 1, mask: Bool[Array, "..."] | None = None
) -> Int[np.ndarray, " types"]:
    """How often each n-gram that occurs occurs, the most frequent first.

    Raises:
      ValueError: see `ngrams`.
    """
    return np.sort(np.bincount(ngrams(tokens, n, mask)))[::-1]
