"""One small map per token of an image: influence, attention, or any other amount on a grid."""

import numpy as np
from jaxtyping import Num, Shaped
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.style import heat, to_rgb
from jaxtok.inspect.tiles import ColourScale, tile_figure

_PICTURE = 0.35  # share of the image under a map


def plot_token_maps(
    maps: Num[np.ndarray, "N R M"],
    image: Shaped[Array, "H W C"] | None = None,
    *,
    columns: int = 8,
    unit: str = "",
    overlay: bool = False,
    title: str = "",
) -> Figure:
    """Maps of N tokens row by row on one scale, bright where there is much; beside each row the image.

    Args:
      maps: amounts, not negative; of a coarser grid than the image they are enlarged.
      image: uint8, or floats in [-1, 1].
      columns: tokens per row.
      unit: what is shown, beside the colour bar.
      overlay: draw the maps over the image, so that one sees what is meant.
      title: one line above the maps.

    Raises:
      ValueError: there are no maps, or an overlay over no image.
    """
    if len(maps) == 0 or (overlay and image is None):
        raise ValueError("nothing to draw: give at least one map, and the image for an overlay")
    largest = float(np.quantile(maps, 0.999)) or 1.0
    picture = None if image is None else to_rgb(np.asarray(image)[None])[0]
    height, width = maps.shape[1:] if picture is None else picture.shape[:2]
    # The nearest cell of each pixel, for grids that divide the image and those that do not.
    rows, across = (
        np.arange(size) * cells // size for size, cells in zip((height, width), maps.shape[1:], strict=True)
    )
    tiles = heat(maps[:, rows][:, :, across], largest)
    if overlay and picture is not None:
        tiles = np.round(_PICTURE * picture + (1 - _PICTURE) * tiles).astype(np.uint8)
    columns = min(columns, len(tiles))
    blank = np.full((-len(tiles) % columns, *tiles.shape[1:]), 255, np.uint8)
    grid = np.concatenate([tiles, blank]).reshape(-1, columns, *tiles.shape[1:])
    last = [min((row + 1) * columns, len(tiles)) - 1 for row in range(len(grid))]
    labels = [
        f"token {end}" if end == row * columns else f"tokens {row * columns} to {end}"
        for row, end in enumerate(last)
    ]
    heads: list[str] = []
    if picture is not None:
        grid = np.concatenate([np.broadcast_to(picture, (len(grid), 1, *picture.shape)), grid], axis=1)
        heads = ["image", *[""] * columns]
    scale = ColourScale(largest, unit)
    return tile_figure(
        grid, row_labels=labels, column_labels=heads, title=title, scale=scale, smallest_tile=64
    )
