"""Walking from one image's codes to another's, a few slots at a time."""

from typing import Literal

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.decoding import Decode, decode_all
from jaxtok.inspect.style import to_rgb
from jaxtok.inspect.tiles import tile_figure


def bit_path(
    codes_a: Int[Array, "N Q"],
    codes_b: Int[Array, "N Q"],
    steps: int,
    *,
    order: Literal["random", "tokens"] = "random",
    seed: int = 0,
) -> Int[np.ndarray, "S N Q"]:
    """Codes on a shortest Hamming path from `codes_a` to `codes_b`.

    Step s has taken over round(s / (steps - 1) * D) of the D slots in which the two differ.

    Args:
      codes_a: where the path starts; any alphabet.
      codes_b: where it ends.
      steps: number of points, both ends included.
      order: which slots change first: a random order, or token by token.
      seed: of the random order.

    Raises:
      ValueError: fewer than two steps, or an unknown order.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: a path has at least its two ends")
    if order not in ("random", "tokens"):
        raise ValueError(f"order={order!r}: choose 'random' or 'tokens'")
    start, end = np.asarray(codes_a, np.int32), np.asarray(codes_b, np.int32)
    differing = np.flatnonzero(start != end)
    if order == "random":
        differing = np.random.default_rng(seed).permutation(differing)
    path = np.repeat(start[None], steps, axis=0)
    for step, codes in enumerate(path):
        taken = differing[: round(step / (steps - 1) * len(differing))]
        codes.flat[taken] = end.flat[taken]
    return path


def interpolate_bits(
    decode: Decode,
    codes_a: Int[Array, "N Q"],
    codes_b: Int[Array, "N Q"],
    steps: int = 9,
    *,
    order: Literal["random", "tokens"] = "random",
    seed: int = 0,
    batch_size: int = 64,
) -> np.ndarray:
    """Decoded images along `bit_path`: float32 [steps, H, W, C], grey levels 0 to 255.

    Args:
      decode: codes int32[B, N, Q] -> images [B, H, W, C], floats in [-1, 1] or uint8.
      codes_a: codes of the first image.
      codes_b: codes of the last image.
      steps: number of images, both ends included.
      order: which slots change first.
      seed: of the random order.
      batch_size: images per call of `decode`.
    """
    return decode_all(decode, bit_path(codes_a, codes_b, steps, order=order, seed=seed), batch_size)


def plot_interpolation(paths: Array, *, title: str = "") -> Figure:
    """The path in code space above the plain blend of its two end pictures, for each pair of images.

    A code space with meaning shows pictures in between, not two superimposed ones.

    Args:
      paths: grey levels 0 to 255, [steps, H, W, C] from `interpolate_bits`, or [P, steps, H, W, C] for
        several pairs.
      title: one line above the grid.

    Raises:
      ValueError: another shape.
    """
    array = np.asarray(paths, np.float32)
    if array.ndim not in (4, 5):
        raise ValueError(
            f"paths of shape {array.shape}: expected [steps, H, W, C] or [pairs, steps, H, W, C]"
        )
    array = array.reshape(-1, *array.shape[-4:])
    steps = array.shape[1]
    share = np.linspace(0, 1, steps)
    weights = share[:, None, None, None].astype(np.float32)
    rows, labels = [], []
    for path in array:
        rows += [path, (1 - weights) * path[0] + weights * path[-1]]
        labels += ["path in codes", "blend of pixels"]
    pixels = np.round(np.stack(rows)).astype(np.uint8)
    rgb = to_rgb(pixels.reshape(-1, *pixels.shape[2:])).reshape(*pixels.shape[:-1], 3)
    columns = [f"{100 * part:.0f} %" for part in share]
    return tile_figure(rgb, row_labels=labels, column_labels=columns, title=title)
