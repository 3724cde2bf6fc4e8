"""Walks through latents: every value of one code, and lines through continuous latents."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.inspect.decoding import Decode, decode_all, decode_values
from jaxtok.inspect.style import to_rgb
from jaxtok.inspect.tiles import tile_figure

DecodeValues = Callable[[np.ndarray], Array]


def traverse_code(
    decode: Decode,
    codes: Int[Array, "N Q"],
    token: int,
    slot: int = 0,
    *,
    levels: Sequence[int],
    most: int = 16,
    batch_size: int = 64,
) -> tuple[Int[np.ndarray, " V"], np.ndarray]:
    """Decodes an image with one code set to each of its values.

    Args:
      decode: codes int32[B, N, Q] -> images [B, H, W, C], floats in [-1, 1] or uint8.
      codes: of one image.
      token, slot: which code.
      levels: alphabet size per slot (`space.levels`).
      most: at most so many values, spread evenly; the image's own is always among them.
      batch_size: images per call of `decode`.

    Returns:
      The values [V] and the images, float32 [V, H, W, C], grey levels 0 to 255.

    Raises:
      ValueError: a token or slot that is not there.
    """
    codes = np.asarray(codes)
    tokens, slots = codes.shape
    if not (0 <= token < tokens and 0 <= slot < slots) or len(levels) != slots:
        raise ValueError(
            f"token {token}, slot {slot} of codes {codes.shape} with {len(levels)} levels: count from 0, "
            "and pass space.levels"
        )
    size, own = levels[slot], int(codes[token, slot])
    values = np.arange(size) if size <= most else np.linspace(0, size - 1, most).round().astype(int)
    if own not in values:
        values[np.abs(values - own).argmin()] = own
    changed = np.repeat(codes[None], len(values), axis=0)
    changed[:, token, slot] = values
    return values, decode_all(decode, changed, batch_size)


def interpolate_values(
    first: Float[Array, "*shape"],
    second: Float[Array, "*shape"],
    steps: int = 9,
    *,
    along: Literal["line", "sphere"] = "line",
) -> Float[np.ndarray, "S *shape"]:
    """Points between two continuous latents, both ends included.

    "sphere" turns from one to the other and changes the length evenly (Shoemake 1985): latents of a Gaussian
    lie near a sphere, and a straight line leaves it. Where the two are parallel it is the line.

    Raises:
      ValueError: fewer than two steps, or another way.
    """
    if steps < 2 or along not in ("line", "sphere"):
        raise ValueError(f"steps={steps} along {along!r}: take at least 2 steps along 'line' or 'sphere'")
    a, b = (np.asarray(end, np.float64) for end in (first, second))
    share = np.linspace(0, 1, steps).reshape(-1, *[1] * a.ndim)
    weights = 1 - share, share
    if along == "sphere":
        lengths = [max(float(np.linalg.norm(end)), 1e-12) for end in (a, b)]
        cosine = np.clip(np.vdot(a, b) / (lengths[0] * lengths[1]), -1, 1)
        angle = np.arccos(cosine)
        if np.sin(angle) > 1e-6:
            length = (1 - share) * lengths[0] + share * lengths[1]
            weights = (
                np.sin((1 - share) * angle) / np.sin(angle) * length / lengths[0],
                np.sin(share * angle) / np.sin(angle) * length / lengths[1],
            )
    return (weights[0] * a + weights[1] * b).astype(np.float32)


def traverse_values(
    decode: DecodeValues,
    values: Float[Array, "N D"],
    directions: Float[Array, "P N D"],
    amounts: Sequence[int | float],
    *,
    batch_size: int = 64,
) -> np.ndarray:
    """Decodes latents that are moved along directions: float32 [P, A, H, W, C], grey levels 0 to 255.

    Args:
      decode: float32 [B, N, D] -> images [B, H, W, C], floats in [-1, 1] or uint8.
      values: latents of one image.
      directions: such as those of `principal_directions`.
      amounts: how far along each of them.
      batch_size: images per call of `decode`.
    """
    values, directions = np.asarray(values, np.float32), np.asarray(directions, np.float32)
    moved = values + np.asarray(amounts, np.float32).reshape(1, -1, 1, 1) * directions[:, None]
    images = decode_values(decode, moved.reshape(-1, *values.shape), batch_size)
    return images.reshape(len(directions), len(amounts), *images.shape[1:])


def principal_directions(
    values: Float[Array, "B N D"], count: int
) -> tuple[Float[np.ndarray, "P N D"], Float[np.ndarray, " P"]]:
    """The directions in which latents of images vary most, each as long as one standard deviation, and their
    shares of the variance.

    Raises:
      ValueError: more directions than images or dimensions allow.
    """
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    if not 1 <= count <= min(len(rows) - 1, rows.shape[1]):
        raise ValueError(
            f"count={count} directions of {len(rows)} images with {rows.shape[1]} numbers each: at most "
            f"{min(len(rows) - 1, rows.shape[1])}"
        )
    _, lengths, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variances = np.square(lengths) / (len(rows) - 1)
    scaled = axes[:count] * np.sqrt(variances[:count])[:, None]
    directions = scaled.reshape(count, *np.shape(values)[1:]).astype(np.float32)
    return directions, variances[:count] / max(variances.sum(), 1e-30)


def plot_traversal(
    images: Num[Array, "R V H W C"],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """One row per walk.

    Args:
      images: grey levels 0 to 255, as the functions above return them.
      row_labels: what is changed.
      column_labels: to what.
      title: one line above the rows.
    """
    array = np.clip(np.round(np.asarray(images, np.float32)), 0, 255).astype(np.uint8)
    tiles = to_rgb(array.reshape(-1, *array.shape[2:])).reshape(*array.shape[:-1], 3)
    return tile_figure(tiles, row_labels=row_labels, column_labels=column_labels, title=title)
