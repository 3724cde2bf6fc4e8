"""Quantizers of two channels, drawn in the plane: cells, values, and the gradients that they pass on."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.style import COLOURS, INK, clean, new_figure

Plane = Callable[[np.ndarray], tuple[Int[Array, "P Q"], Float[Array, "P 2"]]]
_GRID = 161  # places on either side at which a cell is looked up
_COLUMNS = 4
_ARROW = 0.2  # length of a long arrow, one of ten is longer, as a part of the extent


def plot_plane(
    quantizers: Mapping[str, Plane],
    points: Float[Array, "P 2"] | None = None,
    arrows: Mapping[str, tuple[Float[Array, "A 2"], Float[Array, "A 2"]]] | None = None,
    *,
    extent: int | float = 3.0,
) -> Figure:
    """The plane as each quantizer divides it: cells in pale colours, the values of its codes as crosses.

    Args:
      quantizers: name -> function from points [P, 2] to their codes [P, Q] and values [P, 2].
      points: what was quantized, drawn as dots; their mean squared error is written above the panel.
      arrows: name -> (where, what), such as gradients; every panel has a scale of its own.
      extent: the square from -extent to extent is drawn.

    Raises:
      ValueError: nothing to draw.
    """
    if not quantizers:
        raise ValueError("nothing to draw: give at least one quantizer")
    columns = min(_COLUMNS, len(quantizers))
    rows = -(-len(quantizers) // columns)
    figure = new_figure(2.9 * columns, 3.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    side = np.linspace(-extent, extent, _GRID, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    for axes, (name, quantize) in zip(panels, quantizers.items()):
        codes, values = (np.asarray(x) for x in quantize(grid))
        _, cell = np.unique(codes, axis=0, return_inverse=True)
        axes.imshow(
            _pale(cell.reshape(_GRID, _GRID)),
            extent=(-extent, extent, -extent, extent),
            origin="lower",
            interpolation="nearest",
        )
        title = name
        if points is not None:
            known = np.asarray(points, np.float32)
            error = np.mean(np.square(known - np.asarray(quantize(known)[1])))
            title = f"{name}\nmean squared error {error:.3f}"
            axes.scatter(*known.T, s=3, color=INK, alpha=0.35, linewidths=0)
        taken = np.unique(values.round(5), axis=0)
        axes.scatter(*taken.T, s=34, marker="x", color=COLOURS[1], linewidths=1.6)
        if arrows and name in arrows:
            where, what = (np.asarray(x) for x in arrows[name])
            long = max(float(np.quantile(np.linalg.norm(what, axis=-1), 0.9)), 1e-12)
            style = {"angles": "xy", "scale_units": "xy", "scale": long / (_ARROW * extent), "width": 0.007}
            axes.quiver(*where.T, *what.T, color=INK, **style)
        axes.set_xlim(-extent, extent)
        axes.set_ylim(-extent, extent)
        axes.set_xticks([])
        axes.set_yticks([])
        clean(axes, title)
        axes.title.set_fontsize(10)
    for axes in panels[len(quantizers) :]:
        axes.set_axis_off()
    return figure


def _pale(cell: Int[np.ndarray, "R R"]) -> np.ndarray:
    """Colours of cells that differ between neighbours, most of the time: hues far apart by number."""
    hues = colormaps["hsv"]((cell * 0.618034) % 1.0)[..., :3]
    return 1 - 0.25 * (1 - hues) - 0.06 * (cell % 3)[..., None]
