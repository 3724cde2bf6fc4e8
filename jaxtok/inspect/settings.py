"""What a setting does: measures against its values."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxtok.inspect.style import COLOURS, FAINT, LABEL_SIZE, clean, new_figure


def plot_setting(
    setting: str,
    values: Sequence[int | float | str],
    measures: Mapping[str, Mapping[str, Sequence[int | float] | np.ndarray]],
    *,
    references: Mapping[str, int | float] | None = None,
) -> Figure:
    """One panel per measure, one series of points in it per name, against the values of one setting.

    The values stand at equal distances, in the order given. Numbers are joined by lines, names are not.

    Args:
      setting: its name.
      values: what was tried, [V].
      measures: name of the measure -> name of the series -> what came out, [V].
      references: name of a measure -> a level to mark in its panel, such as what real images reach.

    Raises:
      ValueError: nothing to draw, more series than colours, or a series of another length.
    """
    if not measures or not len(values):
        raise ValueError("nothing to draw: give at least one value of the setting and one measure")
    names = list(dict.fromkeys(name for series in measures.values() for name in series))
    if len(names) > len(COLOURS):
        raise ValueError(
            f"{len(names)} lines in one figure cannot be told apart: draw at most {len(COLOURS)}"
        )
    figure = new_figure(4.2 * len(measures), 3.6)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    places = np.arange(len(values))
    numbers = all(isinstance(value, int | float) for value in values)
    for axes, (measure, series) in zip(panels, measures.items()):
        for name, row in series.items():
            if len(row) != len(values):
                raise ValueError(f"{name!r} has {len(row)} results of {measure!r} for {len(values)} values")
            axes.plot(
                places,
                row,
                color=COLOURS[names.index(name)],
                marker="o",
                markersize=5,
                linewidth=1.8 if numbers else 0,
                label=name,
            )
        if references and measure in references:
            axes.axhline(references[measure], color=FAINT, linestyle="--", linewidth=1)
        axes.set_xticks(places, [f"{v:g}" if isinstance(v, int | float) else str(v) for v in values])
        axes.margins(x=0.08, y=0.12)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        clean(axes, measure, setting)
    if len(names) > 1:
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())
        }
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=len(names),
            frameon=False,
            fontsize=LABEL_SIZE,
        )
    return figure
