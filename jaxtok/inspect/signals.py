"""Signals over time as curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.inspect.style import COLOURS, clean

_MOST_POINTS = 2000  # of a curve; longer ones are drawn by their extremes


def plot_signals(rows: Mapping[str, np.ndarray], step: float, unit: str, title: str = "") -> Any:
    """One panel per example, a curve per name: the first channel over time.

    Args:
      rows: name -> values [B, T, C].
      step: distance of two samples in `unit`.
      unit: of time.
      title: of the figure.

    Returns:
      A Matplotlib figure.

    Raises:
      ValueError: nothing to draw.
    """
    import matplotlib.pyplot as plt

    if not rows or not len(next(iter(rows.values()))):
        raise ValueError("no signals to draw; give at least one")
    together = len({len(values) for values in rows.values()}) == 1 and len(next(iter(rows.values()))) > 1
    panels = (
        [
            {name: values[number] for name, values in rows.items()}
            for number in range(len(next(iter(rows.values()))))
        ]
        if together or len(rows) == 2
        else [{name: values[0]} for name, values in rows.items()]
    )
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 1.3 * len(panels) + 0.6), squeeze=False, sharex=True, layout="constrained"
    )
    for axis, curves in zip(axes[:, 0], panels, strict=True):
        for colour, (name, values) in zip(COLOURS, curves.items()):
            thinned = values[:: max(1, len(values) // _MOST_POINTS), 0]
            times = np.arange(len(thinned)) * step * max(1, len(values) // _MOST_POINTS)
            axis.plot(times, thinned, color=colour, linewidth=0.8, label=name)
        clean(axis, "", unit if axis is axes[-1, 0] else "")
        if len(curves) > 1 and axis is axes[0, 0]:
            axis.legend(loc="upper right", fontsize=8, frameon=False)
        elif len(curves) == 1:
            axis.set_title(next(iter(curves)), fontsize=9, loc="left")
    if title:
        figure.suptitle(title)
    return figure
