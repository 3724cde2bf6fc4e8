"""The codes of one image, value by value."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxtok.codes import Array
from jaxtok.inspect.style import COLOURS, INK, TICK_SIZE, clean, new_figure, whole_ticks

_MOST_CELLS = 1024  # codes up to which each value is written into its cell
_SHADES = LinearSegmentedColormap.from_list("codes", ("#ffffff", COLOURS[0]))


def plot_codes(
    codes: Int[Array, "N Q"],
    other: Array | None = None,
    *,
    levels: Sequence[int] = (),
    title: str = "",
) -> Figure:
    """One row per token, one cell per slot with its value; the darker, the larger it is in its alphabet.

    Args:
      codes: of one image.
      other: int [N, Q] of another image; cells in which `codes` differ from it get a frame.
      levels: alphabet size per slot (`space.levels`); none means bits.
      title: one line above; default the size, or the number of differences.

    Raises:
      ValueError: another number of levels than slots, or codes of another shape.
    """
    codes = np.asarray(codes)
    tokens, slots = codes.shape
    sizes = np.asarray(levels or (2,) * slots)
    if len(sizes) != slots:
        raise ValueError(f"{len(sizes)} levels for {slots} slots: pass space.levels")
    if other is not None and np.shape(other) != codes.shape:
        raise ValueError(f"codes of shape {np.shape(other)} beside {codes.shape}: they must be equal")

    cell = float(np.clip(9.0 / slots, 0.08, 0.32))
    figure = new_figure(cell * slots + 1.0, max(cell * tokens, 0.3) + 0.9)
    axes = figure.subplots()
    shade = codes / np.maximum(sizes - 1, 1)
    axes.imshow(shade, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    if codes.size <= _MOST_CELLS:
        for (token, slot), value in np.ndenumerate(codes):
            colour = "white" if shade[token, slot] > 0.5 else INK
            axes.text(slot, token, str(value), ha="center", va="center", color=colour, fontsize=TICK_SIZE)
        # Lines between cells, so that neighbours of one value stay apart.
        axes.set_xticks(np.arange(slots + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(tokens + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.8)
        axes.tick_params(which="minor", length=0)
    text = f"{tokens} tokens of {slots} slots"
    if other is not None:
        differing = np.argwhere(codes != np.asarray(other))
        for token, slot in differing:
            corner = (slot - 0.41, token - 0.41)  # inside the cell, so that neighbours' frames stay apart
            frame = Rectangle(corner, 0.82, 0.82, fill=False, edgecolor=COLOURS[1], linewidth=2, zorder=3)
            axes.add_patch(frame)
        text = f"{len(differing)} of {codes.size} codes differ"
    clean(axes, title or text, "slot", "token")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks(whole_ticks(slots, 17))
    axes.set_yticks(whole_ticks(tokens))
    return figure
