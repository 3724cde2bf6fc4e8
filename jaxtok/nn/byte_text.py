"""Captions as bytes: the vocabulary of the byte-level text encoder. NumPy only, for data workers."""

from collections.abc import Sequence

import numpy as np

PADDING = 0
END = 257
BYTE_VOCAB = 258


def byte_ids(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of each text, cut or right-padded to `length`.

    Byte `b` has id `b + 1`; 0 is padding. An empty text is the one end id 257, so that attention over a
    text always has something to attend to. A text that is too long is cut, possibly inside a character.

    Args:
      texts: B strings.
      length: T >= 1, tokens per text.

    Returns:
      `(ids, mask)`: int32 [B, T] in `[0, 258)`, and bool [B, T], True on real tokens.

    Raises:
      ValueError: `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"text length is {length}, but every text needs at least one token. Use 1 or more.")
    ids = np.full((len(texts), length), PADDING, np.int32)
    for row, text in zip(ids, texts):
        encoded = np.frombuffer(text.encode()[:length], np.uint8)
        row[: len(encoded)] = encoded.astype(np.int32) + 1
        if not len(encoded):
            row[0] = END
    return ids, ids != PADDING


def byte_string(ids: np.ndarray) -> str:
    """The text of one row of `byte_ids`; bytes cut inside a character become the replacement character."""
    return bytes(int(i) - 1 for i in ids if PADDING < i < END).decode(errors="replace")
