"""How far apart images are in code space."""

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.style import DPI, INK, LABEL_SIZE, TICK_SIZE, TITLE_SIZE, to_rgb

_MOST_NUMBERS = 16  # images up to which the value is written into each cell


def hamming_matrix(
    codes: Int[Array, "A N Q"], others: Int[Array, "B N Q"] | None = None
) -> Float[np.ndarray, "A M"]:
    """Fraction of slots in which the codes of two images differ: 0 for equal, about 0.5 for unrelated bits.

    Args:
      codes: codes of A images.
      others: codes of M images to compare with; None compares `codes` with themselves.
    """
    first = np.asarray(codes).reshape(len(codes), -1)
    second = first if others is None else np.asarray(others).reshape(len(others), -1)
    return np.stack([(row != second).mean(axis=1) for row in first])


def plot_hamming(
    matrix: Float[np.ndarray, "A A"], images: Shaped[Array, "A H W C"], *, title: str = ""
) -> Figure:
    """Distances between the codes of a few images, with the images along both sides.

    Args:
      matrix: from `hamming_matrix`.
      images: uint8, or floats in [-1, 1]; sort them by class to see blocks.
      title: one line above the figure.

    Raises:
      ValueError: there are no images.
    """
    count = len(images)
    if count == 0:
        raise ValueError("nothing to draw: there are no images")
    cell, margin, top = max(0.2, 5.0 / count), 0.15, 0.42 if title else 0.15
    side = cell * count
    wide, high = margin + cell + side + 1.0, top + cell + side + margin
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")

    def place(left: float, above: float, width: int | float, height: int | float):
        return figure.add_axes((left / wide, 1 - (above + height) / high, width / wide, height / high))

    pixels = to_rgb(images)
    pixels = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)  # thin white frames
    down = pixels.reshape(-1, *pixels.shape[2:])
    across = np.concatenate(list(pixels), axis=1)
    for picture, box in (
        (down, (margin, top + cell, cell, side)),
        (across, (margin + cell, top, side, cell)),
    ):
        axes = place(*box)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

    axes = place(margin + cell, top + cell, side, side)
    largest = max(0.5, float(matrix.max()))
    drawn = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=largest, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    if count <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(matrix):
            colour = INK if value > 0.6 * largest else "white"
            axes.text(
                column,
                row,
                f"{value:.2f}"[1:] if value < 1 else "1",
                ha="center",
                va="center",
                color=colour,
                fontsize=TICK_SIZE,
            )
    bar = figure.colorbar(drawn, cax=place(margin + cell + side + 0.15, top + cell, 0.14, side))
    bar.set_label("fraction of slots that differ", fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_visible(False)
    figure.text(
        margin / wide, 1 - 0.12 / high, title, fontsize=TITLE_SIZE, color=INK, va="top", parse_math=False
    )
    return figure
