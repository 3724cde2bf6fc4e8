"""Grids of pictures: reconstructions with error maps, samples by caption, prefix ladders."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped
from matplotlib.figure import Figure

from jaxtok.codes import Array
from jaxtok.evaluate.images import psnr
from jaxtok.inspect.style import heat, to_rgb
from jaxtok.inspect.tiles import ColourScale, tile_figure


def reconstruction_grid(
    originals: Shaped[Array, "B H W C"],
    reconstructions: Array | Mapping[str, Array],
    *,
    columns: int = 10,
    error_range: int | float = 64.0,
    labels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Originals above their reconstructions and maps of the absolute error, with the PSNR of each.

    Args:
      originals: uint8, or floats in [-1, 1].
      reconstructions: the same shape; or several under their names, to compare tokenizers or resolutions of
        the code.
      columns: at most this many images are shown, the first ones.
      error_range: error in grey levels (of 255) that gets the brightest colour. Fixed, so that figures of
        different steps compare.
      labels: one short text per image, drawn above it (classes, file names).
      title: one line above the grid.

    Raises:
      ValueError: shapes differ, or there is nothing to show.
    """
    named = reconstructions if isinstance(reconstructions, Mapping) else {"reconstruction": reconstructions}
    if not named or len(originals) == 0:
        raise ValueError("nothing to draw: give at least one image and one set of reconstructions")
    for name, images in named.items():
        if images.shape != originals.shape:
            raise ValueError(
                f"{name!r} has shape {images.shape}, the originals {originals.shape}: they must be equal"
            )

    shown = to_rgb(originals[:columns])
    rows, row_labels, footers = [shown], ["original"], ()
    for name, images in named.items():
        pixels = to_rgb(images[:columns])
        error = np.abs(pixels.astype(np.float32) - shown).mean(axis=-1)
        decibels = np.asarray(psnr(shown, pixels, 255))
        rows += [pixels, heat(error, error_range)]
        row_labels += [name, "absolute error"]
        if len(named) == 1:
            footers = [f"{value:.1f} dB" for value in decibels]
        else:
            row_labels[-2] = f"{name}\n{decibels.mean():.1f} dB"
    return tile_figure(
        np.stack(rows),
        row_labels=row_labels,
        column_labels=list(labels[:columns]),
        footers=footers,
        title=title,
        scale=ColourScale(error_range, "grey levels"),
    )


def tokenizer_grid(
    originals: Shaped[Array, "B H W C"],
    reconstructions: Mapping[str, tuple[Array, int | float]],
    *,
    equal_bits: bool = True,
    columns: int = 10,
    error_range: int | float = 64.0,
    title: str = "",
) -> Figure:
    """Several tokenizers on the same images, with what they spend: `reconstruction_grid` of all of them.

    Args:
      originals: uint8, or floats in [-1, 1].
      reconstructions: name -> (reconstructions of `originals`, bits per image).
      equal_bits: refuse tokenizers that spend different numbers of bits; without it the cheapest comes first.
      columns: at most this many images are shown, the first ones.
      error_range: error in grey levels that gets the brightest colour.
      title: one line above the grid.

    Raises:
      ValueError: the bits differ by more than one percent, or see `reconstruction_grid`.
    """
    bits = {name: spent for name, (_, spent) in reconstructions.items()}
    if equal_bits and bits and max(bits.values()) > 1.01 * min(bits.values()):
        raise ValueError(
            f"bits per image differ ({bits}), so the pictures say little about the tokenizers; choose "
            "sizes of equal bits, or pass equal_bits=False"
        )
    ordered = sorted(reconstructions.items(), key=lambda item: item[1][1])
    named = {f"{name}, {spent:,.4g} bits": images for name, (images, spent) in ordered}
    return reconstruction_grid(originals, named, columns=columns, error_range=error_range, title=title)


def sample_grid(
    images: Shaped[Array, "*shape"], captions: Sequence[str] = (), *, columns: int = 8, title: str = ""
) -> Figure:
    """Generated images, one row per caption.

    Args:
      images: uint8 or floats in [-1, 1]; [R, K, H, W, C] with one row per caption, or [B, H, W, C] in the
        order of the captions (B a multiple of their number).
      captions: one per row; none draws all images in rows of `columns`.
      columns: at most this many images per row.
      title: one line above the grid.

    Raises:
      ValueError: the images do not divide over the captions.
    """
    array = np.asarray(images)
    if array.ndim not in (4, 5):
        raise ValueError(f"images of shape {array.shape}: expected [B, H, W, C], or [rows, columns, H, W, C]")
    if captions:
        count = len(array) if array.ndim == 5 else len(array) / len(captions)
        if (array.ndim == 5 and count != len(captions)) or count != int(count) or count == 0:
            raise ValueError(f"images of shape {array.shape} do not divide over {len(captions)} captions")
        rows = array.reshape(len(captions), -1, *array.shape[-3:])[:, :columns]
    else:
        flat = array.reshape(-1, *array.shape[-3:])
        if len(flat) == 0:
            raise ValueError("nothing to draw: there are no images")
        columns = min(columns, len(flat))
        rows = _fill_up(to_rgb(flat), columns)
    pixels = to_rgb(rows.reshape(-1, *rows.shape[2:])).reshape(*rows.shape[:-1], 3)
    return tile_figure(pixels, row_labels=list(captions), title=title)


def prefix_lengths(tokens: int) -> list[int]:
    """1, 2, 4, ... and `tokens` itself: the rungs of a prefix ladder."""
    return sorted({min(2**power, tokens) for power in range(tokens.bit_length() + 1)})


def prefix_ladder(
    originals: Shaped[Array, "B H W C"],
    reconstructions: Mapping[int, Array],
    *,
    columns: int = 10,
    unit: str = "token",
    title: str = "",
) -> Figure:
    """What each number of tokens gives: one row per prefix length, the originals below.

    Args:
      originals: uint8, or floats in [-1, 1].
      reconstructions: prefix length -> reconstructions of `originals` from so many tokens.
      columns: at most this many images are shown.
      unit: what is counted ("token", "bit", "level").
      title: one line above the grid.

    Raises:
      ValueError: shapes differ, or there is nothing to show.
    """
    if not reconstructions:
        raise ValueError(
            "nothing to draw: reconstructions is empty; give for example {1: ..., 2: ..., 4: ...}"
        )
    shown = to_rgb(originals[:columns])
    rows, labels = [], []
    for length, images in sorted(reconstructions.items()):
        if images.shape != originals.shape:
            raise ValueError(f"{length} {unit}s: shape {images.shape}, the originals have {originals.shape}")
        pixels = to_rgb(images[:columns])
        rows.append(pixels)
        noun = unit if length == 1 else f"{unit}s"
        labels.append(f"{length} {noun}\n{np.asarray(psnr(shown, pixels, 255)).mean():.1f} dB")
    return tile_figure(np.stack([*rows, shown]), row_labels=[*labels, "original"], title=title)


def _fill_up(pixels: np.ndarray, columns: int) -> np.ndarray:
    """[R, columns, H, W, 3], the last row filled up with white."""
    missing = -len(pixels) % columns
    blank = np.full((missing, *pixels.shape[1:]), 255, np.uint8)
    return np.concatenate([pixels, blank]).reshape(-1, columns, *pixels.shape[1:])
