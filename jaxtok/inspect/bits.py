"""How a latent uses its alphabet: balance, entropy and correlation of bits, ranked code frequencies."""

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.evaluate.counts import perplexity, usage
from jaxtok.inspect.style import (
    COLOURS,
    DIVERGING,
    FAINT,
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    clean,
    new_figure,
    whole_ticks,
)

_LARGEST_LINEAR = 64  # codes up to which frequencies are drawn on linear axes


def plot_bit_usage(statistics: CodeStatistics, *, title: str = "") -> Figure:
    """How often each bit is one, per token and slot, and how many bits of information each token carries.

    Args:
      statistics: counts of a binary space over an evaluation set.
      title: one line above the heat map.

    Raises:
      ValueError: the space is not binary, or nothing was counted.
    """
    balance, entropies = statistics.bit_balance(), statistics.entropy_bits()
    tokens, slots = balance.shape
    width, height = np.clip(0.28 * slots, 3.2, 9.0), np.clip(0.28 * tokens, 2.4, 7.0)
    figure = new_figure(width + 3.6, height + 1.0)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(width, 2.0))

    drawn = left.imshow(balance, cmap=DIVERGING, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    rows = "token" if statistics.per_token else "all tokens"
    clean(left, title or "how often each bit is 1", "bit of the token", rows)
    left.set_xticks(whole_ticks(slots))
    left.set_yticks(whole_ticks(tokens))
    bar = figure.colorbar(drawn, ax=left, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_visible(False)

    per_token = entropies.sum(axis=1)
    right.barh(np.arange(tokens), per_token, color=COLOURS[0], height=0.8 if tokens <= 64 else 1.0)
    right.axvline(slots, color=FAINT, linestyle="--", linewidth=1)
    clean(right, f"{per_token.mean() / slots:.1%} of {slots} bits", "sum of bit entropies per token")
    right.set_xlim(0, slots * 1.05)
    right.tick_params(left=False)
    return figure


def plot_bit_correlation(statistics: CodeStatistics, *, title: str = "") -> Figure:
    """Correlation between every two bits, and its distribution beside what independent bits would give.

    Args:
      statistics: counts of a binary space over an evaluation set.
      title: one line above the matrix.

    Raises:
      ValueError: the space is not binary, or nothing was counted.
    """
    matrix = statistics.bit_correlation()
    size, slots = len(matrix), statistics.space.slots
    figure = new_figure(10.5, 5.0)
    left, right = figure.subplots(1, 2, width_ratios=(5.6, 4.0))
    drawn = left.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    clean(
        left,
        title or "correlation between bits",
        "bit (token by token)" if size > slots else "bit of the token",
    )
    ticks = whole_ticks(size // slots) if size > slots else whole_ticks(size)
    step = slots if size > slots else 1
    left.set_xticks([tick * step for tick in ticks])
    left.set_yticks([tick * step for tick in ticks])
    bar = figure.colorbar(drawn, ax=left, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1], shrink=0.85)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_visible(False)

    pairs = np.abs(matrix[np.triu_indices(size, 1)])
    right.hist(pairs, bins=np.linspace(0, 1, 41), color=COLOURS[0], log=len(pairs) > 0)
    # |r| of independent bits is half-normal with this mean (large-sample approximation).
    chance = math.sqrt(2 / math.pi / max(statistics.pair_rows, 1))
    mean = float(pairs.mean()) if len(pairs) else 0.0
    right.axvline(mean, color=COLOURS[1], linewidth=1.5, label=f"mean {mean:.3f}")
    right.axvline(chance, color=FAINT, linewidth=1.5, linestyle="--", label=f"independent bits {chance:.3f}")
    right.set_xlim(0, 1)
    right.legend(frameon=False, fontsize=LABEL_SIZE)
    clean(right, "distribution over pairs", "absolute correlation", "pairs of bits")
    return figure


def plot_code_usage(statistics: CodeStatistics, *, title: str = "") -> Figure:
    """Frequency of each code against its rank, pooled over tokens, one line per slot; any alphabet.

    A flat line is a code used evenly, a line that ends early has dead codes.

    Args:
      statistics: counts over an evaluation set.
      title: one line above the figure.

    Raises:
      ValueError: nothing was counted.
    """
    slots = statistics.space.slots
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    few = slots <= len(COLOURS)
    for slot in range(slots):
        counts = statistics.slot_counts(slot)
        text = f"slot {slot}: {usage(counts):.0%} used, perplexity {perplexity(counts):.1f} of {len(counts)}"
        ranked = np.sort(counts[counts > 0])[::-1] / counts.sum()
        colour = COLOURS[slot] if few else colormaps["viridis"](slot / (slots - 1))
        marker = "o" if len(ranked) <= _LARGEST_LINEAR else ""
        axes.plot(
            np.arange(1, len(ranked) + 1), ranked, color=colour, label=text, marker=marker, markersize=3
        )
    largest = max(statistics.space.levels)
    axes.axhline(1 / largest, color=FAINT, linestyle="--", linewidth=1, label=f"even use of {largest}")
    if largest > _LARGEST_LINEAR:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(0.9, largest * 1.1)
    else:
        axes.set_ylim(bottom=0)
        axes.set_xticks([tick + 1 for tick in whole_ticks(largest)])
    if few:
        axes.legend(frameon=False, fontsize=TICK_SIZE, loc="lower left")
    else:
        bar = figure.colorbar(ScalarMappable(Normalize(0, slots - 1), "viridis"), ax=axes, pad=0.02)
        bar.set_label("slot", fontsize=LABEL_SIZE, color=INK)
        bar.outline.set_visible(False)
    clean(axes, title or "codes by frequency", "rank", "share of all codes")
    return figure
