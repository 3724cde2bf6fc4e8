"""What a program takes of a chip: its memory, and the least time of a step."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtok.inspect.style import COLOURS, INK, LABEL_SIZE, TICK_SIZE, clean, new_figure

Rows = Mapping[str, Mapping[str, int | float]]
REFUSED = "refused"  # the part that is the whole of a program which the compiler refused
_SMALL = 0.005  # of the longest bar; parts that are smaller everywhere get no entry in the legend


def plot_chip_memory(plans: Rows, capacity: int | float) -> Figure:
    """A bar per plan, made of what its memory is for, and a line where the chip's memory ends.

    Args:
      plans: name -> part -> bytes on one chip; the part "refused" is all that is known of a program that
        the compiler gave up, which may need a little less than there is: not all of it is free.
      capacity: bytes that a chip has.

    Raises:
      ValueError: no plans, or more parts than colours.
    """
    parts = [part for part in _parts(plans) if part != REFUSED]
    totals = np.array([sum(row.values()) for row in plans.values()]) / 1e9
    figure, axes, places = _bars(plans, 0.62)
    limit, left = capacity / 1e9, np.zeros(len(plans))
    axes.axvline(limit, color=INK, linestyle="--", linewidth=1.2, label=f"memory of a chip, {limit:.1f} GB")
    for part, colour in zip((*parts, REFUSED), (*COLOURS[: len(parts)], "#c8c8c8")):
        sizes = np.array([row.get(part, 0) for row in plans.values()]) / 1e9
        named = part if sizes.max() > _SMALL * totals.max() else None
        axes.barh(places, sizes, height=0.6, left=left, color=colour, label=named)
        left += sizes
    for place, total, row in zip(places, totals, plans.values()):
        fits = total <= limit and REFUSED not in row
        text = f"{total:.1f} GB" + ("" if fits else ", does not fit")
        _say(axes, float(total), float(place), text, INK if fits else COLOURS[1])
    axes.set_xlim(0, 1.3 * max(limit, totals.max()))
    clean(axes, "", "GB on one chip")
    _legend(figure, axes)
    return figure


def plot_least_times(plans: Rows) -> Figure:
    """Bars with the least time that each resource needs, were the others free; the longest limits a step.

    Args:
      plans: name -> resource (arithmetic, memory, links) -> seconds.

    Raises:
      ValueError: no plans, or more resources than colours.
    """
    parts = _parts(plans)
    figure, axes, places = _bars(plans, 0.3 + 0.26 * len(parts))
    height = 0.8 / len(parts)
    largest = 1e3 * max(value for row in plans.values() for value in row.values())
    for index, (part, colour) in enumerate(zip(parts, COLOURS)):
        at = places + (index - (len(parts) - 1) / 2) * height
        times = 1e3 * np.array([row.get(part, 0) for row in plans.values()])
        axes.barh(at, times, height=0.9 * height, color=colour, label=part)
        for place, time, row in zip(at, times, plans.values()):
            if time >= 1e3 * max(row.values()):
                _say(axes, float(time), float(place), f"{time:.3g} ms", INK)
    axes.set_xlim(0, 1.18 * max(largest, 1e-12))
    clean(axes, "", "least ms of a step")
    _legend(figure, axes)
    return figure


def _parts(plans: Rows) -> list[str]:
    parts = list(dict.fromkeys(part for row in plans.values() for part in row))
    if not parts:
        raise ValueError("nothing to draw: give at least one plan")
    if len(parts) > len(COLOURS):
        raise ValueError(f"{len(parts)} parts cannot be told apart: draw at most {len(COLOURS)}")
    return parts


def _bars(plans: Rows, each: float) -> tuple[Figure, Axes, np.ndarray]:
    figure = new_figure(9.0, 1.4 + each * len(plans))
    axes, places = figure.subplots(), np.arange(len(plans))
    axes.set_yticks(places, list(plans), fontsize=LABEL_SIZE)
    axes.set_ylim(len(plans) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    return figure, axes, places


def _legend(figure: Figure, axes: Axes) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        frameon=False,
        fontsize=LABEL_SIZE,
    )


def _say(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the line of the chip's memory
    axes.annotate(
        text,
        (x, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=TICK_SIZE,
        color=colour,
        bbox=ground,
    )
