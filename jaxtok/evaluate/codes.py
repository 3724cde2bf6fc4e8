"""How discrete latents use their alphabet: usage, perplexity, dead codes, entropies, bit statistics.

One definition for all quantizers, from counts over a whole evaluation set. Numbers depend on the number of
codes seen (perplexity of a small set cannot exceed its size), so every result states it.
"""

import math
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok.codes import Array, CodeSpace
from jaxtok.evaluate.bit_pairs import PairCounts, mean_abs_correlation
from jaxtok.evaluate.counts import dead_codes, entropy_nats, perplexity, uniform_divergence, usage
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.rates import bits_per_image

_LARGEST_COUNT_TABLE = 2**24  # entries (128 MB of int64) above which counts are pooled over tokens
_LARGEST_JOINT_TABLE = 2**22  # values of a whole token up to which they are counted (32 MB)
_LARGEST_PAIR_TABLE = 2048  # bits per image up to which all pairs are counted (32 MB)


def describe_levels(levels: tuple[int, ...]) -> str:
    """Short text for alphabet sizes, runs folded: (2, 2, 2, 8) -> "2*3,8"."""
    runs = [(level, len(list(run))) for level, run in groupby(levels)]
    return ",".join(f"{level}*{length}" if length > 1 else str(level) for level, length in runs)


class CodeStatistics:
    """Counts codes over an evaluation set; additive, so hosts and shards `merge`.

    Counts are kept per (token, slot, value) while that table stays below 128 MB, otherwise pooled over
    tokens. For binary spaces pairs of bits are counted too: all pairs of an image up to 2,048 bits, otherwise
    pairs inside a token. Values of whole tokens (all slots together) are counted up to 2^22 of them.
    """

    def __init__(self, space: CodeSpace, tokens: int):
        if tokens < 1:
            raise ValueError(f"tokens={tokens}: a latent has at least one token")
        self.space, self.tokens, self.images = space, tokens, 0
        self._edges = np.concatenate([[0], np.cumsum(space.levels)])
        self.per_token = tokens * int(self._edges[-1]) <= _LARGEST_COUNT_TABLE
        self._counts = np.zeros((tokens if self.per_token else 1, int(self._edges[-1])), np.int64)
        joint = space.slots > 1 and space.size <= _LARGEST_JOINT_TABLE
        self._joint = np.zeros(space.size, np.int64) if joint else None
        self._pairs = None
        if space.is_binary:
            self._all_pairs = tokens * space.slots <= _LARGEST_PAIR_TABLE
            width = space.slots * (tokens if self._all_pairs else 1)
            self._pairs = PairCounts(width)

    def update(self, codes: Int[Array, "B N Q"], mask: Bool[Array, "B *rest"] | None = None) -> None:
        """Adds a batch of codes.

        Args:
          codes: [B, N, Q], slot q in [0, levels[q]).
          mask: bool [B], [B, N] or [B, N, Q]; False entries (padding rows, dropped tokens or levels) are not
            counted.

        Raises:
          ValueError: wrong number of tokens or slots, or a code outside its alphabet.
        """
        codes = np.asarray(codes)
        if codes.shape[1:] != (self.tokens, self.space.slots):
            raise ValueError(f"codes of shape {codes.shape}: expected [B, {self.tokens}, {self.space.slots}]")
        kept = _full_mask(mask, codes.shape)
        levels = np.asarray(self.space.levels)
        wrong = kept & ((codes < 0) | (codes >= levels))
        if wrong.any():
            image, token, slot = np.argwhere(wrong)[0]
            raise ValueError(
                f"code {codes[image, token, slot]} at image {image}, token {token}, slot {slot} is outside "
                f"[0, {levels[slot]}): absent codes belong in the mask, never in the values"
            )
        flat = codes.astype(np.int64) + self._edges[:-1]
        if self.per_token:
            flat = flat + np.arange(self.tokens)[:, None] * self._edges[-1]
        self._counts += np.bincount(flat[kept], minlength=self._counts.size).reshape(self._counts.shape)
        self.images += int(kept.any(axis=(1, 2)).sum())
        if self._joint is not None:
            index, count = np.unique(self.space.join(codes[kept.all(axis=2)]), return_counts=True)
            self._joint[index] += count
        if self._pairs is not None:
            rows = codes.reshape(-1, self._pairs.width), kept.reshape(-1, self._pairs.width)
            self._pairs.update(rows[0][rows[1].all(axis=1)])

    def merge(self, other: "CodeStatistics") -> None:
        """Adds everything that another accumulator has seen.

        Raises:
          ValueError: the other one counts another space or number of tokens.
        """
        if (self.space, self.tokens) != (other.space, other.tokens):
            raise ValueError("statistics of different code spaces or token counts cannot be merged")
        self._counts += other._counts
        self.images += other.images
        if self._joint is not None and other._joint is not None:
            self._joint += other._joint
        if self._pairs is not None and other._pairs is not None:
            self._pairs.merge(other._pairs)

    def slot_counts(self, slot: int) -> Int[np.ndarray, " K"]:
        """Occurrences of each value of one slot, summed over tokens."""
        return self._counts[:, self._edges[slot] : self._edges[slot + 1]].sum(axis=0)

    def token_counts(self, slot: int) -> Int[np.ndarray, "N K"]:
        """Occurrences of each value of one slot per token.

        Raises:
          ValueError: the table was too large, so counts are pooled over tokens.
        """
        if not self.per_token:
            raise ValueError(f"counts of {self.tokens} tokens were pooled over tokens; use slot_counts")
        return self._counts[:, self._edges[slot] : self._edges[slot + 1]]

    def joint_counts(self) -> Int[np.ndarray, " K"]:
        """Occurrences of each value of a whole token, all slots together, summed over tokens. Tokens with a
        masked slot are left out.

        Raises:
          ValueError: there are too many values to count.
        """
        if self.space.slots == 1:
            return self.slot_counts(0)
        if self._joint is None:
            raise ValueError(
                f"{self.space.size} values of a token are too many to count (over {_LARGEST_JOINT_TABLE}); "
                "use slot_counts, or regroup the slots"
            )
        return self._joint

    def entropy_bits(self, *, miller_madow: bool = False) -> Float[np.ndarray, "N Q"]:
        """Entropy of each slot in bits, per token (one row when counts are pooled over tokens)."""
        edges = self._edges
        slots = [
            entropy_nats(self._counts[:, edges[slot] : edges[slot + 1]], miller_madow=miller_madow)
            for slot in range(self.space.slots)
        ]
        return np.stack(slots, axis=-1) / math.log(2)

    def bit_balance(self) -> Float[np.ndarray, "N Q"]:
        """How often each bit is one, per token (one row when counts are pooled over tokens); 0.5 is balanced.

        Raises:
          ValueError: the space is not binary.
        """
        if self._pairs is None:
            raise ValueError(self._needs_bits("bit balance"))
        counts = self._counts.reshape(len(self._counts), self.space.slots, 2)
        return counts[..., 1] / np.maximum(counts.sum(axis=-1), 1)

    def bit_correlation(self) -> Float[np.ndarray, "D D"]:
        """Pearson correlation between bits: D = N * Q (token-major), or D = Q pooled for large latents.

        Rows with any masked bit are left out. A bit that never changes correlates with nothing: its row is 0.

        Raises:
          ValueError: the space is not binary, or nothing was counted.
        """
        if self._pairs is None:
            raise ValueError(self._needs_bits("bit correlation"))
        return self._pairs.correlation()

    @property
    def pair_rows(self) -> int:
        """Number of images (of tokens, when pooled) behind `bit_correlation`; 0 unless binary."""
        return 0 if self._pairs is None else self._pairs.rows

    def _needs_bits(self, what: str) -> str:
        return f"{what} needs binary slots, this space has levels {describe_levels(self.space.levels)}"

    def results(self, *, miller_madow: bool = False, **protocol: Any) -> list[Result]:
        """Summary numbers; per-slot tables come from the methods above.

        `code_usage`, `code_perplexity` and `dead_codes` are of the alphabet shared by all tokens (mean, mean
        and sum over slots), and `joint_*` the same of all slots together; `entropy_bits_per_image` sums the
        entropies of single slots, so it ignores dependence between slots and is an upper bound of the true
        rate up to estimation error.

        Args:
          miller_madow: bias-corrects the entropies.
          **protocol: what the counter cannot know: data set, split, weights, seed.
        """
        pooled = [self.slot_counts(slot) for slot in range(self.space.slots)]
        entropies = self.entropy_bits(miller_madow=miller_madow)
        shared = {
            "images": self.images,
            "tokens": self.tokens,
            "levels": describe_levels(self.space.levels),
            **protocol,
        }
        estimator = {
            "entropy": "miller-madow" if miller_madow else "plug-in",
            "counts": "per token" if self.per_token else "pooled over tokens",
        }
        values = {
            "code_usage": (np.mean([float(usage(counts)) for counts in pooled]), {}),
            "code_perplexity": (np.mean([float(perplexity(counts)) for counts in pooled]), {}),
            "dead_codes": (sum(int(dead_codes(counts)) for counts in pooled), {}),
            "bits_per_image": (bits_per_image(self.space, self.tokens), {}),
            "entropy_bits_per_image": (entropies.mean(axis=0).sum() * self.tokens, estimator),
        }
        if self._joint is not None and self._joint.any():
            values |= {
                "joint_code_usage": (float(usage(self._joint)), {}),
                "joint_code_perplexity": (float(perplexity(self._joint)), {}),
                "joint_dead_codes": (int(dead_codes(self._joint)), {}),
            }
        if self._pairs is not None:
            balance = self.bit_balance()
            pairs = {"pairs": "all bits of an image" if self._all_pairs else "bits of one token"}
            values = {
                **values,
                "stuck_bits": (
                    np.mean((balance < 0.01) | (balance > 0.99)),
                    {"stuck": "under 1 % or over 99 % ones"},
                ),
                "bit_correlation_mean_abs": (mean_abs_correlation(self.bit_correlation()), pairs),
            }
        return [Result(name, float(value), {**shared, **extra}) for name, (value, extra) in values.items()]

    def slot_results(self, **protocol: Any) -> list[Result]:
        """Of every slot by itself, pooled over tokens: `code_usage_slot_<q>`, `code_perplexity_...`,
        `dead_codes_...`, `entropy_bits_...` (corrected as Miller and Madow do) and `uniform_kl_bits_...`.

        Args:
          **protocol: what the counter cannot know: data set, split, weights, seed.

        Raises:
          ValueError: a slot without any code.
        """
        results = []
        for slot, level in enumerate(self.space.levels):
            counts = self.slot_counts(slot)
            values = {
                "code_usage": usage(counts),
                "code_perplexity": perplexity(counts),
                "dead_codes": dead_codes(counts),
                "entropy_bits": entropy_nats(counts, miller_madow=True) / math.log(2),
                "uniform_kl_bits": uniform_divergence(counts) / math.log(2),
            }
            shared = {
                "images": self.images,
                "tokens": self.tokens,
                "codes": int(counts.sum()),
                "level": level,
            }
            results += [
                Result(f"{name}_slot_{slot}", float(value), shared | protocol)
                for name, value in values.items()
            ]
        return results


def _full_mask(mask: Array | None, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.ones(shape, bool)
    array = np.asarray(mask)
    if array.shape != shape[: array.ndim]:
        raise ValueError(
            f"mask of shape {array.shape} for codes of shape {shape}: use [B], [B, N] or [B, N, Q]"
        )
    return np.broadcast_to(array.reshape(array.shape + (1,) * (3 - array.ndim)), shape)
