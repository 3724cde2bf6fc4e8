"""Rows of small pictures with labels: the pixel-exact canvas under every grid.

Tiny images are enlarged by a whole factor without smoothing, so that each original pixel is one crisp square,
and the figure has exactly one screen pixel per canvas pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxtok.inspect.style import (
    DPI,
    FAINT,
    INK,
    LABEL_SIZE,
    SEQUENTIAL,
    TICK_SIZE,
    TITLE_SIZE,
    text_inches,
    wrap,
)

SMALLEST_TILE = 72  # screen pixels; images below are enlarged to about this
LARGEST_TILE = 256  # images above are reduced by a whole factor
GAP = 6


@dataclass(frozen=True)
class ColourScale:
    """A colour bar for tiles that show amounts: 0 to `largest`, with a label."""

    largest: int | float
    label: str


def tile_figure(
    tiles: UInt8[np.ndarray, "R K H W 3"],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    footers: Sequence[str] = (),
    title: str = "",
    scale: ColourScale | None = None,
    smallest_tile: int = SMALLEST_TILE,
) -> Figure:
    """Draws R rows of K pictures.

    Args:
      tiles: pictures.
      row_labels: R texts at the left, or none; long ones are wrapped.
      column_labels: K short texts above, or none.
      footers: K short texts below, or none.
      title: one line above all.
      scale: colour bar at the right, when tiles show amounts.
      smallest_tile: side in screen pixels up to which small pictures are enlarged.

    Raises:
      ValueError: the number of labels is not the number of rows or columns.
    """
    tiles = _reduce(tiles)
    rows, columns, height, width, _ = tiles.shape
    for name, labels, count in (
        ("row_labels", row_labels, rows),
        ("column_labels", column_labels, columns),
        ("footers", footers, columns),
    ):
        if len(labels) not in (0, count):
            raise ValueError(f"{len(labels)} {name} for {count} pictures: give one each, or none")
    factor = max(1, -(-smallest_tile // max(height, width)))
    canvas = _canvas(tiles, factor)
    step_y, step_x = factor * height + GAP, factor * width + GAP

    row_labels = [wrap(label) for label in row_labels]
    left = max((text_inches(label, LABEL_SIZE) for label in row_labels), default=0.0)
    left = left + 0.22 if row_labels else 0.12
    top = 0.12 + (0.32 if title else 0.0) + (0.22 if column_labels else 0.0)
    bottom = 0.12 + (0.22 if footers else 0.0)
    right = 0.12 if scale is None else 1.0
    inner_width, inner_height = canvas.shape[1] / DPI, canvas.shape[0] / DPI
    wide = max(left + inner_width + right, text_inches(title, TITLE_SIZE) + 0.3)
    high = top + inner_height + bottom
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")

    axes = figure.add_axes((left / wide, bottom / high, inner_width / wide, inner_height / high))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()

    def write(x: float, y: float, text: str, size: int | float, **alignment: str) -> None:
        options = {"color": INK, "fontsize": size, "parse_math": False, **alignment}
        figure.text(x / wide, 1 - y / high, text, **options)

    if title:
        write(0.12, 0.12, title, TITLE_SIZE, ha="left", va="top")
    centres = [left + (column * step_x + factor * width / 2) / DPI for column in range(columns)]
    for centre, label in zip(centres, column_labels):
        write(centre, top - 0.05, label, TICK_SIZE, ha="center", va="bottom")
    for centre, label in zip(centres, footers):
        write(centre, top + inner_height + 0.05, label, TICK_SIZE, ha="center", va="top", color=FAINT)
    for row, label in enumerate(row_labels):
        write(
            left - 0.1,
            top + (row * step_y + factor * height / 2) / DPI,
            label,
            LABEL_SIZE,
            ha="right",
            va="center",
        )
    if scale is not None:
        _colour_bar(figure, scale, left + inner_width + 0.15, bottom, inner_height)
    return figure


def _reduce(tiles: np.ndarray) -> np.ndarray:
    """Averages blocks of pixels until no side is larger than `LARGEST_TILE`; odd rows at the end are cut."""
    rows, columns, height, width, channels = tiles.shape
    factor = -(-max(height, width) // LARGEST_TILE)
    if factor == 1:
        return tiles
    high, wide = height // factor, width // factor
    cut = tiles[:, :, : high * factor, : wide * factor]
    blocks = cut.reshape(rows, columns, high, factor, wide, factor, channels)
    return np.round(blocks.mean(axis=(3, 5))).astype(np.uint8)


def _canvas(tiles: np.ndarray, factor: int) -> np.ndarray:
    """White canvas with the enlarged tiles and gaps between them."""
    rows, columns, height, width, _ = tiles.shape
    large = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    spaced = np.full((rows, columns, factor * height + GAP, factor * width + GAP, 3), 255, np.uint8)
    spaced[:, :, :-GAP, :-GAP] = large
    canvas = spaced.swapaxes(1, 2).reshape(rows * spaced.shape[2], columns * spaced.shape[3], 3)
    return canvas[:-GAP, :-GAP]


def _colour_bar(figure: Figure, scale: ColourScale, left: float, bottom: float, height: int | float) -> None:
    """A thin bar right of the canvas; positions in inches."""
    wide, high = figure.get_size_inches()
    bar_height = min(height, 2.2)
    place = (left / wide, (bottom + (height - bar_height) / 2) / high, 0.12 / wide, bar_height / high)
    bar = figure.colorbar(ScalarMappable(Normalize(0, scale.largest), SEQUENTIAL), cax=figure.add_axes(place))
    # Beside a single row of tiles a label may need several lines.
    fitting = int(len(scale.label) * height / max(text_inches(scale.label, TICK_SIZE), 1e-6))
    bar.set_label(wrap(scale.label, max(fitting, 8)), fontsize=TICK_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_visible(False)
    bar.locator = _few_ticks()
    bar.update_ticks()


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, steps=[1, 2, 5, 10])
