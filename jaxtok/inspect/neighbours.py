"""Which images have the most similar latents."""

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.style import to_rgb
from jaxtok.inspect.tiles import tile_figure

_AT_ONCE = 1 << 24  # codes that are compared in one go


def nearest_codes(
    codes: Int[Array, "A N Q"], others: Int[Array, "B N Q"], count: int = 8
) -> tuple[Int[np.ndarray, "A K"], Float[np.ndarray, "A K"]]:
    """The images whose codes differ least, for each of A images.

    Args:
      codes: of the images that are asked about.
      others: of the images that are searched; an image that is among them finds itself first.
      count: K; of equal distances the earlier image comes first.

    Returns:
      Indices into `others`, and the fraction of slots in which the codes differ, the nearest first.

    Raises:
      ValueError: more neighbours than images.
    """
    asked, searched = (np.asarray(array).reshape(len(array), -1) for array in (codes, others))
    if not 1 <= count <= len(searched):
        raise ValueError(f"count={count} neighbours among {len(searched)} images")
    stretch = max(1, _AT_ONCE // max(searched.size, 1))
    distances = np.concatenate(
        [
            (asked[start : start + stretch, None] != searched).mean(axis=2)
            for start in range(0, len(asked), stretch)
        ]
    )
    found = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return found, np.take_along_axis(distances, found, axis=1)


def plot_neighbours(
    images: Shaped[Array, "A H W C"],
    others: Shaped[Array, "B H W C"],
    found: Int[Array, "M K"],
    *,
    title: str = "",
) -> Figure:
    """Each image at the left, its neighbours in code space beside it, the nearest first.

    Args:
      images: that were asked about; uint8, or floats in [-1, 1].
      others: that were searched.
      found: indices from `nearest_codes`.
      title: one line above the rows.

    Raises:
      ValueError: another number of rows than images.
    """
    if len(images) != len(found) or len(images) == 0:
        raise ValueError(f"{len(found)} rows of neighbours for {len(images)} images: give one each")
    asked = to_rgb(images)[:, None]
    near = to_rgb(others)[np.asarray(found)]
    gap = np.full_like(asked, 255)
    count = near.shape[1]
    heads = ["image", "", *(str(place + 1) for place in range(count))]
    return tile_figure(np.concatenate([asked, gap, near], axis=1), column_labels=heads, title=title)
