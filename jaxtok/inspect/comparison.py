"""Quantizers side by side: how much of their alphabet they use, when, and at what error."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtok.inspect.style import COLOURS, FAINT, INK, LABEL_SIZE, TICK_SIZE, clean, new_figure


@dataclasses.dataclass(frozen=True)
class QuantizerRow:
    """What `plot_usage_and_error` shows of one quantizer.

    Attributes:
      usage: share of codes that occur on held-out data.
      training_usage: the same on training data.
      mse: mean squared error on held-out data.
    """

    usage: float
    training_usage: float
    mse: float


def plot_usage_history(
    histories: Mapping[str, tuple[np.ndarray, np.ndarray]], codes: int, window_tokens: int
) -> Figure:
    """Usage and perplexity over training, one line per quantizer.

    Args:
      histories: name -> (usage, perplexity) of windows of training, [W] each; NaN for none.
      codes: K.
      window_tokens: tokens in a window.

    Raises:
      ValueError: more quantizers than colours.
    """
    _check_count(len(histories))
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    for (name, (used, perplexities)), colour in zip(histories.items(), COLOURS):
        millions = np.arange(1, len(used) + 1) * window_tokens / 1e6
        style = {"color": colour, "linewidth": 1.6, "marker": "o", "markersize": 3}
        left.plot(millions, 100 * used, label=_words(name), **style)
        right.plot(millions, perplexities, **style)
    seen = f"tokens of training in windows of {window_tokens:,}, millions"
    clean(left, f"codes in use, % of {codes:,}", seen)
    clean(right, "perplexity of the codes", seen)
    left.set_ylim(0, 104)
    right.set_yscale("log")
    right.set_ylim(1, codes * 1.15)
    right.axhline(codes, color=FAINT, linestyle="--", linewidth=1)
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(histories), 7),
        frameon=False,
        fontsize=LABEL_SIZE,
    )
    return figure


def plot_usage_and_error(
    rows: Mapping[str, QuantizerRow], codes: int, *, threshold: float | None = None
) -> Figure:
    """Bars of usage (held-out and training data) and of the error, one row per quantizer.

    Args:
      rows: name -> what to show, from top to bottom.
      codes: K.
      threshold: a usage to mark.
    """
    figure = new_figure(10.0, 0.55 * len(rows) + 1.5)
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))
    on_held_out = [100 * row.usage for row in rows.values()]
    on_training = [100 * row.training_usage for row in rows.values()]
    left.barh(places, on_training, height=0.72, color="#cfe0ee", label="training data")
    left.barh(places, on_held_out, height=0.42, color=COLOURS[0], label="held-out data")
    for place, value, end in zip(places, on_held_out, np.maximum(on_held_out, on_training)):
        _say(left, end + 1.5, place, f"{value:.1f}" if value < 10 else f"{value:.0f}")
    if threshold is not None:
        left.axvline(
            100 * threshold,
            color=COLOURS[1],
            linestyle="--",
            linewidth=1,
            label=f"{threshold:.0%} (hypothesis)",
        )
    left.set_xlim(0, 112)
    left.set_xticks([0, 20, 40, 60, 80, 100])
    left.set_yticks(places, [_words(name) for name in rows], fontsize=LABEL_SIZE)
    left.invert_yaxis()
    clean(left, f"codes in use, % of {codes:,}")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=TICK_SIZE, labelcolor=INK
    )
    errors = [row.mse for row in rows.values()]
    right.barh(places, errors, height=0.55, color=COLOURS[4])
    for place, value in zip(places, errors):
        _say(right, value + 0.015 * max(errors), place, f"{value:.3g}")
    right.set_xlim(0, 1.14 * max(*errors, 1e-12))
    clean(right, "mean squared error, held-out pixels in [-1, 1]")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure


def plot_prefix_psnr(curves: Mapping[str, np.ndarray]) -> Figure:
    """PSNR against the number of depths that are decoded, one line per residual stack.

    Args:
      curves: name -> PSNR in dB of 1, 2, ... depths.

    Raises:
      ValueError: more stacks than colours.
    """
    _check_count(len(curves))
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), COLOURS):
        depths = np.arange(1, len(values) + 1)
        dashed = "--" if "dropout" in name else "-"
        axes.plot(depths, values, dashed, color=colour, marker="o", markersize=5, label=_words(name))
    axes.set_xticks(range(1, max(map(len, curves.values())) + 1))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.legend(frameon=False, fontsize=LABEL_SIZE)
    clean(axes, "decoding the first depths of a residual stack", "depths that are decoded", "PSNR, dB")
    return figure


def _say(axes: Axes, x: float | np.number, y: float | np.number, text: str) -> None:
    # A white ground, where lines of the plot cross the number.
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
    axes.text(float(x), float(y), text, va="center", fontsize=TICK_SIZE, color=INK, bbox=ground)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _check_count(count: int) -> None:
    if count > len(COLOURS):
        raise ValueError(f"{count} lines in one figure cannot be told apart: draw at most {len(COLOURS)}")
