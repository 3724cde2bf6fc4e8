"""Entropy, redundancy and compressed length of token sequences, in bits."""

import heapq
import lzma
import math
import zlib

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxtok.codes import Array
from jaxtok.evaluate.counts import entropy_nats
from jaxtok.evaluate.language.tokens import full_mask, ngram_counts

COMPRESSORS = ("zlib", "lzma", "lz78", "bpe")


def ngram_entropy(
    tokens: Int[Array, "B N"],
    n: int = 1,
    mask: Bool[Array, "..."] | None = None,
    *,
    miller_madow: bool = True,
) -> float:
    """Entropy of blocks of n tokens, H_n; with the correction + (types - 1) / (2 M ln 2) of M blocks, which
    is too small once most blocks are seen once.

    Raises:
      ValueError: see `ngrams`.
    """
    return float(entropy_nats(ngram_counts(tokens, n, mask), miller_madow=miller_madow)) / math.log(2)


def conditional_entropies(
    tokens: Int[Array, "B N"],
    longest: int,
    mask: Bool[Array, "..."] | None = None,
    *,
    miller_madow: bool = True,
) -> Float[np.ndarray, " n"]:
    """H(x_n | x_1 ... x_{n-1}) for n = 1 to `longest`, the difference of block entropies; what they approach
    is the entropy rate. All blocks are prefixes of the same windows of `longest` tokens, so that no term of
    the difference has seen more text than the other.

    Raises:
      ValueError: see `ngrams`.
    """
    tokens = np.asarray(tokens)
    kept = full_mask(tokens, mask)
    if not 1 <= longest <= tokens.shape[1]:
        raise ValueError(f"longest={longest}: blocks in rows of {tokens.shape[1]} tokens have 1 to that many")
    windows = np.lib.stride_tricks.sliding_window_view(tokens, longest, axis=1)
    whole = np.lib.stride_tricks.sliding_window_view(kept, longest, axis=1).all(axis=-1)
    rows = windows[whole]
    blocks = [0.0, *(ngram_entropy(rows[:, :n], n, miller_madow=miller_madow) for n in range(1, longest + 1))]
    return np.diff(blocks)


def mutual_information(
    tokens: Int[Array, "B N"],
    distance: int,
    mask: Bool[Array, "..."] | None = None,
    *,
    miller_madow: bool = True,
) -> float:
    """I(x_i; x_{i + distance}) over all such pairs in a row, in bits; with the correction it can be slightly
    negative.

    Raises:
      ValueError: no pair at that distance.
    """
    tokens = np.asarray(tokens)
    kept = full_mask(tokens, mask)
    if distance < 1:
        raise ValueError(f"distance={distance} must be at least 1")
    both = kept[:, :-distance] & kept[:, distance:]
    if not both.any():
        raise ValueError(f"no two tokens of a row of {tokens.shape[1]} are {distance} apart")
    pairs = np.stack([tokens[:, :-distance][both], tokens[:, distance:][both]], axis=1)
    single = [ngram_entropy(pairs[:, i : i + 1], miller_madow=miller_madow) for i in range(2)]
    return sum(single) - ngram_entropy(pairs, 2, miller_madow=miller_madow)


def huffman_bits(counts: Num[Array, " types"]) -> float:
    """Mean length of a Huffman code of single tokens, between H_1 and H_1 + 1; 0 of a single type.

    Raises:
      ValueError: nothing occurs.
    """
    heap = [float(count) for count in np.asarray(counts).ravel() if count > 0]
    if not heap:
        raise ValueError("a code for no tokens; give counts of at least one")
    heapq.heapify(heap)
    total, bits = sum(heap), 0.0
    while len(heap) > 1:
        # Every merge puts one more bit before all tokens below it.
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        bits += merged
        heapq.heappush(heap, merged)
    return bits / total


def compressed_bits(
    tokens: Int[Array, "B N"],
    method: str = "zlib",
    mask: Bool[Array, "..."] | None = None,
    *,
    merges: int = 64,
) -> float:
    """Bits per token after compression of the whole corpus as one line: an upper bound of the entropy rate.

    Types are numbered by their order of appearance, in one byte each up to 256 of them (two up to 65,536,
    then four), least significant bytes first and plane by plane. Which type has which number is not counted.

    Args:
      tokens: ids.
      method: "zlib" (level 9), "lzma" (preset 6), "lz78" (dictionary of phrases: ceil(log2 of its size) bits
        and one token for each), or "bpe" (after `merges` merges of the most frequent pair, the entropy of
        what is left times its length; the table of merges is not counted).
      mask: tokens that are meant.
      merges: of "bpe".

    Raises:
      ValueError: another method, or no tokens.
    """
    tokens = np.asarray(tokens)
    stream = tokens[full_mask(tokens, mask)]
    if not len(stream):
        raise ValueError("compression of no tokens; the mask keeps none")
    _, first, ids = np.unique(stream, return_index=True, return_inverse=True)
    ids = np.argsort(np.argsort(first))[ids]
    if method in ("zlib", "lzma"):
        width = np.min_scalar_type(max(len(first) - 1, 1)).itemsize
        planes = b"".join((ids >> 8 * place & 255).astype(np.uint8).tobytes() for place in range(width))
        packed = zlib.compress(planes, 9) if method == "zlib" else lzma.compress(planes, preset=6)
        return 8 * len(packed) / len(ids)
    if method == "lz78":
        return _lz78_bits(ids.tolist(), len(first)) / len(ids)
    if method == "bpe":
        merged = merge_pairs(ids, merges)
        return ngram_entropy(merged[None], miller_madow=False) * len(merged) / len(ids)
    raise ValueError(f"method={method!r}; choose one of {COMPRESSORS}")


def merge_pairs(stream: Int[np.ndarray, " M"], merges: int) -> Int[np.ndarray, " m"]:
    """Byte-pair encoding of a line: `merges` times, the most frequent pair of neighbours (ties: the smallest)
    becomes a new type; from left to right, without overlap. Stops where no pair occurs twice.
    """
    stream = np.asarray(stream).astype(np.int64)
    for _ in range(merges):
        if len(stream) < 2:
            break
        base = int(stream.max()) + 1
        pairs, counts = np.unique(stream[:-1] * base + stream[1:], return_counts=True)
        if counts.max() < 2:
            break
        first, second = divmod(int(pairs[counts.argmax()]), base)
        hits = np.flatnonzero((stream[:-1] == first) & (stream[1:] == second))
        if first == second:
            # In a run of equal tokens every second pair begins a merge.
            starts = np.concatenate([[True], np.diff(hits) > 1])
            run = np.maximum.accumulate(np.where(starts, np.arange(len(hits)), 0))
            hits = hits[(np.arange(len(hits)) - run) % 2 == 0]
        stream = stream.copy()
        stream[hits] = base
        stream = np.delete(stream, hits + 1)
    return stream


def _lz78_bits(ids: list[int], types: int) -> float:
    phrases: dict[tuple[int, int], int] = {}
    bits, current, letter = 0.0, 0, math.log2(types) if types > 1 else 0.0
    for token in ids:
        known = phrases.get((current, token))
        if known is not None:
            current = known
            continue
        bits += math.ceil(math.log2(len(phrases) + 1)) + letter
        phrases[current, token] = len(phrases) + 1
        current = 0
    return bits + (math.ceil(math.log2(len(phrases) + 1)) if current else 0.0)
