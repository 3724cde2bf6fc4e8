"""Decoding any number of codes with one compiled batch shape."""

from collections.abc import Callable

import numpy as np

from jaxtok.codes import Array

Decode = Callable[[np.ndarray], Array]


def decode_all(decode: Decode, codes: np.ndarray, batch_size: int) -> np.ndarray:
    """Decodes [M, N, Q] codes in batches of one size: float32 [M, H, W, C], grey levels 0 to 255.

    The last batch is filled up with repeats of its first row, so a jitted `decode` compiles once.

    Args:
      decode: codes int32[B, N, Q] -> images [B, H, W, C], floats in [-1, 1] or uint8.
      codes: what to decode.
      batch_size: rows per call.

    Raises:
      ValueError: `batch_size` is not positive, or `decode` returns another shape.
    """
    return decode_values(decode, codes.astype(np.int32), batch_size)


def decode_values(decode: Decode, latents: np.ndarray, batch_size: int) -> np.ndarray:
    """`decode_all` of latents [M, ...] of any kind, which are passed on as they are."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    batch_size = min(batch_size, len(latents))
    decoded = []
    for start in range(0, len(latents), batch_size):
        batch = latents[start : start + batch_size]
        padding = np.repeat(batch[:1], batch_size - len(batch), axis=0)
        images = np.asarray(decode(np.concatenate([batch, padding])))
        if images.ndim != 4 or len(images) != batch_size:
            raise ValueError(
                f"decode returned shape {images.shape} for {batch_size} latents: expected [B, H, W, C]"
            )
        decoded.append(grey_levels(images[: len(batch)]))
    return np.concatenate(decoded)


def grey_levels(images: np.ndarray) -> np.ndarray:
    """float32 in [0, 255] without rounding, from uint8 or floats in [-1, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32)
    return (np.clip(images.astype(np.float32), -1, 1) + 1) * 127.5
