"""What all figures share: colours that colour-blind readers can tell apart, sizes, and clean axes."""

import textwrap
from collections.abc import Callable

import numpy as np
from jaxtyping import Num, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from jaxtok.codes import Array
from jaxtok.evaluate.images import to_uint8

DPI = 100
INK = "#222222"
FAINT = "#8a8a8a"
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito (2008)
SEQUENTIAL = "magma"  # amounts: zero is black
DIVERGING = "PuOr"  # deviations from a middle
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12, 10, 9


def new_figure(width: int | float, height: int | float) -> Figure:
    """An empty figure of that many inches with automatic layout, white behind."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def clean(axes: Axes, title: str = "", x: str = "", y: str = "") -> Axes:
    """Labels an axes and takes away what carries no information."""
    axes.set_title(title, fontsize=TITLE_SIZE, color=INK, parse_math=False)
    axes.set_xlabel(x, fontsize=LABEL_SIZE, color=INK)
    axes.set_ylabel(y, fontsize=LABEL_SIZE, color=INK)
    axes.tick_params(labelsize=TICK_SIZE, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def whole_ticks(count: int, most: int = 9) -> list[int]:
    """At most `most` evenly spaced indices out of `range(count)`, starting at 0, at round steps."""
    steps = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024)
    step = next((step for step in steps if (count - 1) // step < most), max(count // most, 1))
    return list(range(0, count, step))


def text_inches(text: str, size: int | float) -> float:
    """Width of the widest line of a text in inches, without a renderer."""
    measure: Callable = TextToPath().get_text_width_height_descent
    font = FontProperties(size=size)
    return max(measure(line, font, False)[0] for line in text.split("\n")) / 72 if text else 0.0


def wrap(text: str, width: int = 26) -> str:
    """Breaks every line of a caption that is longer than `width` characters."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def to_rgb(images: Shaped[Array, "B H W C"]) -> UInt8[np.ndarray, "B H W 3"]:
    """uint8 RGB from uint8 or [-1, 1] images with 1 or 3 channels.

    Raises:
      ValueError: another number of channels.
    """
    pixels = to_uint8(images)
    if pixels.shape[-1] not in (1, 3):
        raise ValueError(f"images of shape {pixels.shape}: a picture has 1 or 3 channels")
    return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def heat(values: Num[np.ndarray, "*shape"], largest: int | float) -> UInt8[np.ndarray, "*shape 3"]:
    """Colours amounts: 0 is black, `largest` and more the brightest colour of `SEQUENTIAL`."""
    from matplotlib import colormaps

    scaled = np.clip(values / max(largest, 1e-12), 0, 1)
    return colormaps[SEQUENTIAL](scaled, bytes=True)[..., :3]
