"""Bit fields to bytes and back, on the host, for `CodeSpace.pack`."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8


def pack_fields(
    values: Integer[np.ndarray, "*batch N F"], widths: Sequence[int]
) -> UInt8[np.ndarray, "*batch bytes"]:
    """Packs F unsigned fields per token, field f in `widths[f]` <= 32 bits, into bytes (little-endian bit
    order).

    Returns:
      uint8 [..., ceil(N * sum(widths) / 8)]; the unused high bits of the last byte are zero.
    """
    if set(widths) == {1}:
        return np.packbits(
            values.astype(np.uint8).reshape(*values.shape[:-2], -1), axis=-1, bitorder="little"
        )
    values = values.astype(np.uint32)
    bits = [(values[..., f, None] >> np.arange(width, dtype=np.uint32)) & 1 for f, width in enumerate(widths)]
    flat = np.concatenate(bits, axis=-1).astype(np.uint8)
    flat = flat.reshape(*values.shape[:-2], values.shape[-2] * sum(widths))
    return np.packbits(flat, axis=-1, bitorder="little")


def unpack_fields(
    packed: UInt8[np.ndarray, "*batch bytes"], tokens: int, widths: Sequence[int]
) -> Integer[np.ndarray, "*batch N F"]:
    """Inverse of `pack_fields`: uint32 [..., tokens, F]."""
    total = sum(widths)
    flat = np.unpackbits(packed, axis=-1, count=tokens * total, bitorder="little")
    flat = flat.reshape(*packed.shape[:-1], tokens, total).astype(np.uint32)
    if set(widths) == {1}:
        return flat
    fields = np.split(flat, np.cumsum(widths)[:-1], axis=-1)
    values = [
        (field << np.arange(field.shape[-1], dtype=np.uint32)).sum(-1, dtype=np.uint32) for field in fields
    ]
    return np.stack(values, axis=-1)
