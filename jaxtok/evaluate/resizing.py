"""Resizing as feature networks want it: one matrix per axis, so that every protocol is the same code.

Each new pixel is a weighted mean of old ones. How the weights are chosen changes a Frechet distance, so a
result says which of these it used:

  area      mean of the surface that a new pixel covers
  tf1       bilinear as TensorFlow 1 (and torch-fidelity): new pixel i looks at i * old / new
  torch     bilinear as PyTorch (and pytorch-fid): it looks at (i + 1/2) * old / new - 1/2

Neither of the bilinear ones widens its window when an image shrinks (no anti-aliasing).
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Num

Method = Literal["area", "tf1", "torch"]


def resize_weights(old: int, new: int, method: Method) -> Float[np.ndarray, "new old"]:
    """Weights of the old pixels in each new one, float64; every row sums to 1.

    Raises:
      ValueError: an unknown method, or a side under one pixel.
    """
    if min(old, new) < 1:
        raise ValueError(f"cannot resize {old} to {new} pixels; both sides have at least one")
    if method == "area":
        edges = np.linspace(0, old, new + 1)
        pixels = np.arange(old)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.maximum(overlap, 0) * (new / old)
    if method not in ("tf1", "torch"):
        raise ValueError(f"method={method!r}; choose 'area', 'tf1' or 'torch'")
    places = np.arange(new) * old / new
    if method == "torch":
        places = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    below = np.minimum(np.floor(places).astype(int), old - 1)
    above, part = np.minimum(below + 1, old - 1), places - below
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), below), 1 - part)
    np.add.at(weights, (np.arange(new), above), part)
    return weights


def area_resize(images: Num[np.ndarray, "B H W C"], side: int) -> Float[np.ndarray, "B S S C"]:
    """Resizes by area: each new pixel is the mean of the surface that it covers, float64.

    Exact for whole factors (a nearest-neighbour enlargement is undone), free of ringing for all others.
    """
    rows, columns = (resize_weights(length, side, "area") for length in images.shape[1:3])
    return np.einsum("yh,bhwc,xw->byxc", rows, images.astype(np.float64), columns, optimize=True)
