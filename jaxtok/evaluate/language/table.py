"""All statistics of one tokenizer's codes as a language, beside their controls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxtok.codes import Array, CodeSpace
from jaxtok.evaluate.codes import describe_levels
from jaxtok.evaluate.language.frequency import (
    benford_deviation,
    fit_zipf,
    fit_zipf_likelihood,
    fit_zipf_mandelbrot,
    hapax_share,
)
from jaxtok.evaluate.language.information import (
    COMPRESSORS,
    compressed_bits,
    conditional_entropies,
    huffman_bits,
    mutual_information,
    ngram_entropy,
)
from jaxtok.evaluate.language.innovation import (
    fit_heaps,
    fit_yule_simon,
    heaps_curve,
    innovation_rate,
    yule_k,
)
from jaxtok.evaluate.language.orders import ORDERS, grid_order, shuffled
from jaxtok.evaluate.language.power_law import compare_laws, fit_power_law
from jaxtok.evaluate.language.tokens import full_mask, ngram_counts, token_ids
from jaxtok.evaluate.protocol import Result


def language_statistics(
    codes: Int[Array, "B N Q"],
    space: CodeSpace,
    *,
    grid: tuple[int, int] | None = None,
    mask: Bool[Array, "..."] | None = None,
    longest: int = 3,
    distances: Sequence[int] = (1, 2, 4, 8),
    compressors: Sequence[str] = COMPRESSORS,
    innovation_orders: int = 10,
    seed: int = 0,
    **protocol: Any,
) -> list[Result]:
    """The table of a tokenizer; every result is named `language_...`.

    What depends on the order of tokens is measured in several readings, named at the end: `_rows`,
      `_columns`,
    `_hilbert` and `_random` of a grid, `_given` and `_random` of other sequences, and always `_shuffled`: all
    tokens of the corpus in random order. A difference from `_shuffled` is structure; one between the readings
    is an effect of how the tokens were put in a line. A statistic that a corpus does not have (the slope of a
    single type) is NaN.

    Args:
      codes: of many images, [B, N, Q]; all slots of a token together are one symbol.
      space: their alphabet.
      grid: (height, width) of tokens that lie on a grid, row by row.
      mask: tokens that count, bool [B] or [B, N].
      longest: n-grams and blocks up to this many tokens.
      distances: of mutual information, those that fit in a row.
      compressors: of `compressed_bits`.
      innovation_orders: random orders of images.
      seed: of shuffles and random orders.
      **protocol: what this cannot know: data set, split, weights.

    Raises:
      ValueError: a grid of another number of tokens, or no tokens.
    """
    tokens = token_ids(codes, space)
    kept = full_mask(tokens, mask)
    count = tokens.shape[1]
    if grid is not None and grid[0] * grid[1] != count:
        raise ValueError(
            f"a grid of {grid[0]}x{grid[1]} has not {count} tokens; leave it out for other latents"
        )
    if not kept.any():
        raise ValueError("a language of no tokens; the mask keeps none")
    shared = {
        "images": int(kept.any(axis=1).sum()),
        "tokens": int(kept.sum()),
        "levels": describe_levels(space.levels),
        "entropy": "miller-madow",
        "seed": seed,
        **protocol,
    }
    values = _of_types(tokens, kept, space.bits, innovation_orders, seed)
    results = [Result(f"language_{name}", value, shared) for name, value in values.items()]
    for name, order in _readings(count, grid, seed).items():
        line, whole = tokens[:, order], kept[:, order]
        if name == "shuffled":
            line = shuffled(line, seed, whole)
        found = _of_order(line, whole, space.bits, min(longest, count), distances, compressors)
        results += [
            Result(f"language_{statistic}_{name}", value, {**shared, "order": name})
            for statistic, value in found.items()
        ]
    return results


def _readings(count: int, grid: tuple[int, int] | None, seed: int) -> dict[str, np.ndarray]:
    if grid is None:
        orders = {"given": np.arange(count), "random": np.random.default_rng(seed).permutation(count)}
    else:
        orders = {kind: grid_order(kind, *grid, seed=seed) for kind in ORDERS}
    return {**orders, "shuffled": np.arange(count)}


def _of_types(
    tokens: np.ndarray, kept: np.ndarray, bits: float, innovation_orders: int, seed: int
) -> dict[str, float]:
    """Statistics that no order of tokens inside an image changes."""
    counts = ngram_counts(tokens, 1, kept)
    entropy = ngram_entropy(tokens, 1, kept)
    huffman = huffman_bits(counts)
    innovation = innovation_rate(tokens, kept, orders=innovation_orders, seed=seed)
    mandelbrot = _defined(lambda: fit_zipf_mandelbrot(counts))
    tail = _defined(lambda: fit_power_law(counts))
    laws = None if tail is None else compare_laws(counts, tail)
    yule_simon = _defined(lambda: fit_yule_simon(counts))
    heaps = _defined(lambda: fit_heaps(heaps_curve(tokens, kept)))
    mixed = shuffled(tokens, seed, kept)
    heaps_shuffled = _defined(lambda: fit_heaps(heaps_curve(mixed, kept)))
    return {
        "types": float(len(counts)),
        "hapax_share": hapax_share(counts),
        "zipf_exponent": _value(_defined(lambda: fit_zipf_likelihood(counts)), lambda fit: -fit.slope),
        "zipf_mandelbrot_exponent": _value(mandelbrot, lambda fit: -fit.slope),
        "zipf_mandelbrot_shift": _value(mandelbrot, lambda fit: fit.shift),
        "power_law_alpha": _value(tail, lambda fit: fit.alpha),
        "power_law_x_min": _value(tail, lambda fit: fit.x_min),
        "power_law_distance": _value(tail, lambda fit: fit.distance),
        "power_law_against_lognormal": _value(laws, lambda found: found["lognormal"].statistic),
        "power_law_against_exponential": _value(laws, lambda found: found["exponential"].statistic),
        "benford_deviation": benford_deviation(counts),
        "yule_k": yule_k(counts),
        "yule_simon_rho": _value(yule_simon, lambda fit: fit[0]),
        "heaps_beta": _value(heaps, lambda fit: fit[1]),
        "heaps_beta_shuffled": _value(heaps_shuffled, lambda fit: fit[1]),
        "innovation_first_image": float(innovation.per_image[0]),
        "innovation_last_image": float(innovation.per_image[-1]),
        "images_to_half_of_types": innovation.half,
        "entropy_bits": entropy,
        "entropy_share": entropy / bits,
        "entropy_share_of_used": entropy / np.log2(len(counts)) if len(counts) > 1 else float("nan"),
        "huffman_bits": huffman,
        "huffman_reduction": 1 - huffman / bits,
    }


def _of_order(
    tokens: np.ndarray,
    kept: np.ndarray,
    bits: float,
    longest: int,
    distances: Sequence[int],
    compressors: Sequence[str],
) -> dict[str, float]:
    """Statistics of one reading."""
    found: dict[str, float] = {}
    for n in range(1, longest + 1):
        counts = _defined(lambda n=n: ngram_counts(tokens, n, kept))
        fit = None if counts is None else _defined(lambda counts=counts: fit_zipf(counts))
        found[f"zipf_slope_{n}gram"] = _value(fit, lambda fit: fit.slope)
    conditional = _defined(lambda: conditional_entropies(tokens, longest, kept))
    for n in range(2, longest + 1):
        found[f"conditional_entropy_{n}"] = _value(conditional, lambda values, n=n: values[n - 1])
    for distance in distances:
        if distance < tokens.shape[1]:
            information = _defined(lambda d=distance: mutual_information(tokens, d, kept))
            found[f"mutual_information_{distance}"] = _value(information, lambda value: value)
    for method in compressors:
        found[f"{method}_share"] = compressed_bits(tokens, method, kept) / bits
    return found


def _defined(statistic: Callable[[], Any]) -> Any:
    """None where the corpus is too small or too uniform for a statistic."""
    try:
        return statistic()
    except ValueError:
        return None


def _value(found: Any, take: Callable[[Any], float]) -> float:
    return float("nan") if found is None else float(take(found))
