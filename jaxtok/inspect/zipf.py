"""Rank and frequency of codes, and how near they are to a power law."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.style import COLOURS, LABEL_SIZE, clean, new_figure


@runtime_checkable
class RankLaw(Protocol):
    """A straight line in logarithms: log f = intercept + slope * log rank, natural logarithms."""

    @property
    def slope(self) -> float:
        """Minus the exponent."""
        ...

    @property
    def intercept(self) -> float:
        """Logarithm of the count at rank 1."""
        ...


@dataclass(frozen=True)
class RankLine:
    """A `RankLaw` and how well it fits.

    Attributes:
      slope: minus the exponent; -1 is Zipf's law.
      intercept: logarithm of the count at rank 1.
      r_squared: share of the variance of the logarithms that it explains; 1 for two ranks or equal counts.
    """

    slope: float
    intercept: float
    r_squared: float


def fit_ranks(counts: Num[Array, " K"]) -> RankLine:
    """Least squares of log count on log rank over the codes that occur. Every rank weighs the same, so the
    many rare codes decide.

    Raises:
      ValueError: fewer than two codes occur.
    """
    ranked = _ranked(counts)
    if len(ranked) < 2:
        raise ValueError(f"{len(ranked)} codes occur; a line over ranks needs at least 2")
    x, y = np.log(np.arange(1, len(ranked) + 1)), np.log(ranked)
    slope, intercept = np.polyfit(x, y, 1)
    left, all_of_it = np.square(y - slope * x - intercept).sum(), np.square(y - y.mean()).sum()
    return RankLine(float(slope), float(intercept), float(1 - left / all_of_it) if all_of_it > 0 else 1.0)


def plot_zipf(
    counts: Array | Mapping[str, Array], *, fits: Mapping[str, RankLaw] | None = None, title: str = ""
) -> Figure:
    """Counts against ranks on logarithmic axes with a fitted line each; Zipf's law is a slope of -1, even use
    is flat.

    Args:
      counts: of each code [K], or several under their names (at most seven).
      fits: name -> the line to draw in place of that of `fit_ranks`; the name of one set of counts is "".
      title: one line above the figure.

    Raises:
      ValueError: too many sets, or fewer than two codes occur in one.
    """
    named = counts if isinstance(counts, Mapping) else {"": counts}
    if len(named) > len(COLOURS):
        raise ValueError(
            f"{len(named)} lines in one figure cannot be told apart: draw at most {len(COLOURS)}"
        )
    given = fits or {}
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    for (name, values), colour in zip(named.items(), COLOURS):
        ranked = _ranked(values)
        law = given.get(name) or fit_ranks(values)
        ranks = np.arange(1, len(ranked) + 1)
        quality = getattr(law, "r_squared", np.nan)
        words = f"slope {law.slope:.2f}" + (f", R² {quality:.2f}" if np.isfinite(quality) else "")
        axes.plot(ranks, ranked, color=colour, marker="o", markersize=3, linewidth=0.8)
        ends = np.array([1, len(ranked)])
        line = np.exp(law.intercept + law.slope * np.log(ends))
        label = f"{name}: {words}" if name else words
        axes.plot(ends, line, color=colour, linestyle="--", linewidth=1.4, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.legend(frameon=False, fontsize=LABEL_SIZE, loc="lower left")
    clean(axes, title or "codes by rank", "rank", "count")
    return figure


def _ranked(counts: Array) -> np.ndarray:
    """Counts of the codes that occur, the largest first."""
    counts = np.asarray(counts, np.float64)
    return np.sort(counts[counts > 0])[::-1]
