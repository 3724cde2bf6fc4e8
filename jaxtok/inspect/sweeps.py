"""Figures of a search for hyper-parameters."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxtok.inspect.style import COLOURS, FAINT, INK, LABEL_SIZE, TICK_SIZE, clean, new_figure

_MOST_LABELS = 5


def parallel_coordinates(
    trials: Sequence[tuple[Mapping[str, Any], float]], metric: str, log: Collection[str] = ()
) -> Figure:
    """One line per trial over an axis per hyper-parameter, ending at its result, which is also its colour.

    Args:
      trials: (values by name, result) of finished trials, at least one, all with the same names.
      metric: name of the result.
      log: names whose axis is logarithmic.

    Raises:
      ValueError: no trials.
    """
    if not trials:
        raise ValueError("no finished trials to draw; run some first")
    names = list(trials[0][0])
    results = np.array([value for _, value in trials], float)
    axes_data = [_axis([values[name] for values, _ in trials], name in log) for name in names]
    axes_data.append(_axis(list(results), False))
    figure = new_figure(2.2 + 2.0 * len(names), 4.2)
    axes = clean(figure.add_subplot())
    norm = Normalize(results.min(), results.max() if np.ptp(results) else results.min() + 1)
    heights = np.stack([height for height, _ in axes_data], axis=1)
    for row, result in zip(heights[np.argsort(results)], np.sort(results), strict=True):
        axes.plot(
            range(len(axes_data)), row, color=colormaps["viridis"](norm(result)), alpha=0.8, linewidth=1.5
        )
    for place, (_, labels) in enumerate(axes_data):
        axes.axvline(place, color=FAINT, linewidth=0.8, zorder=0)
        for height, text in labels:
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
            axes.text(
                place + 0.03,
                height,
                text,
                fontsize=TICK_SIZE,
                color=INK,
                va="center",
                bbox=box,
                parse_math=False,
            )
    axes.set_xticks(range(len(axes_data)), [*(_two_lines(name) for name in names), _two_lines(metric)])
    axes.tick_params(axis="x", labelsize=LABEL_SIZE, length=0)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlim(-0.1, len(names) + 0.4)
    return figure


def importance_figure(shares: Mapping[str, float], metric: str) -> Figure:
    """Bars with the share of each hyper-parameter in the variance of the results (fANOVA, Hutter 2014).

    Args:
      shares: name -> share in [0, 1].
      metric: name of the result.
    """
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = new_figure(6, 1.2 + 0.4 * len(ordered))
    axes = clean(figure.add_subplot(), x=f"share in the variance of {metric}")
    bars = axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=COLOURS[0])
    axes.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=3, fontsize=TICK_SIZE, color=INK)
    axes.set_xlim(0, 1)
    return figure


def _axis(values: Sequence[Any], log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights in [0, 1] of values on an axis, and (height, text) of what to write beside it."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, float)
        scaled = np.log(numbers) if log else numbers
        low, high = scaled.min(), scaled.max()
        heights = (scaled - low) / (high - low) if high > low else np.full(len(scaled), 0.5)
        if high == low:
            return heights, [(0.5, f"{numbers[0]:.3g}")]
        marks = np.linspace(0, 1, _MOST_LABELS)
        if len(set(values)) <= _MOST_LABELS:
            return heights, [
                (float(h), f"{n:.3g}") for h, n in sorted(set(zip(heights, numbers, strict=True)))
            ]
        at = low + marks * (high - low)
        return heights, [
            (float(m), f"{n:.3g}") for m, n in zip(marks, np.exp(at) if log else at, strict=True)
        ]
    kinds = sorted({str(value) for value in values})
    place = {kind: index / max(len(kinds) - 1, 1) for index, kind in enumerate(kinds)}
    return np.array([place[str(value)] for value in values]), [
        (height, kind) for kind, height in place.items()
    ]


def _two_lines(name: str) -> str:
    head, dot, tail = name.replace("/", "/\n").rpartition(".")
    return f"{head}{dot}\n{tail}" if dot else tail
