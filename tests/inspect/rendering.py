"""Figures as pixels and texts."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg


def render(figure) -> np.ndarray:
    """The figure as a screen would show it, uint8 [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure) -> list[str]:
    """All visible texts of a figure."""
    return [
        text.get_text()
        for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
        if text.get_text()
    ]


def contains(picture: np.ndarray, patch: np.ndarray) -> bool:
    """Whether a patch occurs pixel by pixel in a picture."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], patch.shape[:2])
    candidates = np.argwhere(windows[:, :, 0, 0] == patch[0, 0, 0])
    height, width = patch.shape[:2]
    return any(np.array_equal(picture[y : y + height, x : x + width], patch) for y, x in candidates)
