"""Rotary position embeddings over one to four axes with real coordinates (arXiv 2104.09864).

The head is divided among the axes: axis a gets `axes_dims[a]` channels, that is `axes_dims[a] / 2` rotation
  planes with
frequencies `theta ** (-2 i / axes_dims[a])`. Coordinates are real numbers, so a grid of any resolution can
span one range.

Layouts:
  "half": plane j is the channel pair (j, j + head_dim / 2). The default.
  "interleaved": plane j is the channel pair (2 j, 2 j + 1).
  "instella": tables repeated as for "interleaved" but applied to the pairs of "half". Partners then carry
  different
    angles, so it is not a rotation; the released Instella-T2I weights were trained with it and need it.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

RopeLayout = Literal["half", "interleaved", "instella"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["cos", "sin"], meta_fields=["neighbours"])
@dataclasses.dataclass(frozen=True)
class Rope:
    """Tables ready to apply.

    Attributes:
      cos, sin: float32 [..., N, head_dim].
      neighbours: whether the channels of a pair are neighbours ("interleaved") or half a head apart.
    """

    cos: Any
    sin: Any
    neighbours: bool


def rope_tables(
    positions: Shaped[jax.Array, "*batch N A"],
    axes_dims: tuple[int, ...],
    theta: float = 10_000.0,
    layout: RopeLayout = "half",
) -> Rope:
    """Cosine and sine tables for coordinates.

    Args:
      positions: real coordinates [..., N, A]; computed with in float32.
      axes_dims: channels per axis, even, one entry per axis.
      theta: base of the frequencies.
      layout: see the module's docstring.

    Returns:
      `Rope` with tables [..., N, sum(axes_dims)].

    Raises:
      ValueError: number of axes, odd channel counts, or an unknown layout.
    """
    if positions.shape[-1] != len(axes_dims):
        raise ValueError(
            f"positions have {positions.shape[-1]} axes, axes_dims={axes_dims} has {len(axes_dims)}"
        )
    if any(dim % 2 for dim in axes_dims):
        raise ValueError(
            f"axes_dims={axes_dims}: every axis needs an even number of channels, two per rotation plane"
        )
    if layout not in ("half", "interleaved", "instella"):
        raise ValueError(f"layout={layout!r}; choose 'half', 'interleaved' or 'instella'")
    angles = [
        positions[..., axis, None].astype(jnp.float32)
        * theta ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
        for axis, dim in enumerate(axes_dims)
    ]
    planes = jnp.concatenate(angles, axis=-1)
    angle = jnp.concatenate([planes, planes], axis=-1) if layout == "half" else jnp.repeat(planes, 2, axis=-1)
    return Rope(jnp.cos(angle), jnp.sin(angle), layout == "interleaved")


def apply_rope(x: Float[jax.Array, "B N H D"], rope: Rope) -> Float[jax.Array, "B N H D"]:
    """Rotates queries or keys: `x cos + partner(x) sin`, in float32, returned in the dtype of `x`."""
    x32 = x.astype(jnp.float32)
    if rope.neighbours:
        pairs = x32.reshape(*x32.shape[:-1], -1, 2)
        partner = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x32.shape)
    else:
        first, second = jnp.split(x32, 2, axis=-1)
        partner = jnp.concatenate([-second, first], axis=-1)
    return (x32 * rope.cos[..., None, :] + partner * rope.sin[..., None, :]).astype(x.dtype)


def grid_coordinates(height: int, width: int, scale: float | int | None = None) -> Float[jax.Array, "HW 2"]:
    """Row and column of every cell of a grid, row by row.

    Args:
      height, width: cells.
      scale: if given, rows and columns are stretched to span [0, scale - 1], so that every resolution covers
        the same range and corner cells have the same coordinates at all of them; else they are 0, 1, 2, ...
    """

    def axis(cells):
        index = np.arange(cells, dtype=np.float32)
        # A single cell has no extent to stretch; it sits at the origin.
        return index if scale is None else index / np.float32(max(cells - 1, 1)) * np.float32(scale - 1)

    # On the host: a compiler may fold the two factors into one, and the corners would no longer be exact.
    rows, columns = np.meshgrid(axis(height), axis(width), indexing="ij")
    return jnp.asarray(np.stack([rows, columns], axis=-1).reshape(-1, 2))
