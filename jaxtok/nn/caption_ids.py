"""Captions as ids, for whichever encoder reads them. NumPy only, for data workers."""

from collections.abc import Sequence

import numpy as np

from jaxtok.nn.byte_text import byte_ids
from jaxtok.nn.subword_text import tokenize


def caption_ids(texts: Sequence[str], length: int, text_model: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Bytes padded on the right, or the subwords of a language model padded on the left.

    Args:
      texts: B captions.
      length: T; longer captions are cut.
      text_model: folder of a Hugging Face language model; empty for bytes.

    Returns:
      `(ids, mask)`: int32 [B, T], and bool [B, T], True on real tokens.
    """
    return tokenize(text_model, texts, length) if text_model else byte_ids(texts, length)
