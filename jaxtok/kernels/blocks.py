"""Block sizes are data keyed by device kind: each operation has tables of them in its `shapes.py`.

A table maps the lower-case beginning of a device kind ("tpu v5 lite", "nvidia h", "cpu") to what holds there;
"" is everything else. A device that somebody has measured gets an entry, and no code changes.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import TypeVar

import jax

T = TypeVar("T")
LANES = 128  # of a TPU's vectors: the last axis of a tile is a multiple of it
# Vector memory for the tiles of a TPU kernel, of the 16 MB that one may use by default on every generation.
TPU_BYTES = {"": 11 * 2**20}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How much a kernel works on at a time.

    Attributes:
      tokens: one side of a tile.
      codes: the other side (bits, for `binary_codes`).
      width: features that are held at a time; what an operation does with wider ones, it says.
    """

    tokens: int
    codes: int
    width: int = sys.maxsize


def for_device(table: Mapping[str, T], kind: str | None = None) -> T:
    """The entry of a table whose key the device kind starts with (longest first).

    Args:
      table: entries by lower-case beginning of the device kind; one of them is "".
      kind: device kind; default that of the target (the current mesh's, else the first local device's).
    """
    if kind is None:
        mesh = jax.sharding.get_abstract_mesh()
        device = None if mesh.empty else getattr(mesh, "abstract_device", None)
        kind = device.device_kind if device is not None else jax.devices()[0].device_kind
    kind = str(kind).lower()
    return table[max((key for key in table if kind.startswith(key)), key=len)]


def whole(n: int, unit: int = LANES) -> int:
    """`n` rounded up to a multiple of `unit`, at least one."""
    return max(unit, -(-n // unit) * unit)


def power_of_two(n: int) -> int:
    """`n` rounded up to a power of two, which sides of Triton's blocks are."""
    return 1 << (max(n, 1) - 1).bit_length()


def fit_tpu(
    blocks: Blocks, tokens: int, codes: int, width: int, per_feature: int = 14, per_score: int = 12
) -> Blocks:
    """Blocks that are not larger than the arrays and fit on the chip: wide features get smaller ones.

    Args:
      blocks: what the table says.
      tokens: how many there are.
      codes: how many there are.
      width: features of both that are on the chip.
      per_feature: bytes of one; an input is double buffered, and split for full precision.
      per_score: bytes of one element of a tile; scores exist about three times.
    """
    rows, columns = min(blocks.tokens, whole(tokens)), min(blocks.codes, whole(codes))
    width, most = whole(width), for_device(TPU_BYTES)
    while per_feature * width * (rows + columns) + per_score * rows * columns > most:
        if max(rows, columns) <= LANES:
            break
        if columns >= rows:
            columns = whole(columns // 2)
        else:
            rows = whole(rows // 2)
    return dataclasses.replace(blocks, tokens=rows, codes=columns)
