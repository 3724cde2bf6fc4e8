"""Captions as the subword ids of a pretrained language model. No JAX, for data workers."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.json_files import read_object


def tokenize(
    path: str | os.PathLike, texts: Sequence[str], length: int, left: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of each text, cut and padded to `length`.

    Special tokens are added as `tokenizer.json` says. A text without any token (the empty one, for most
    models) becomes the one token that begins or ends a text, so that attention always has something to attend
    to.

    Args:
      path: folder with `tokenizer.json` and `config.json`.
      texts: B strings.
      length: T >= 1, tokens per text; longer texts are cut at their end.
      left: pad on the left, as decoder-only models expect; else on the right.

    Returns:
      `(ids, mask)`: int32 [B, T], and bool [B, T], True on real tokens. Padding has the model's padding id,
      or 0.

    Raises:
      ImportError: the extra `text` is not installed.
      FileNotFoundError: the folder has no `tokenizer.json`.
      ValueError: `length` is below 1, or an empty text and a model without any begin, end or padding token.
    """
    if length < 1:
        raise ValueError(f"text length is {length}, but every text needs at least one token. Use 1 or more.")
    folder = Path(path)
    tokenizer, (padding, lone) = _tokenizer(folder, length), _special_ids(folder)
    ids = np.full((len(texts), length), padding, np.int32)
    mask = np.zeros((len(texts), length), bool)
    for row, encoding in enumerate(tokenizer.encode_batch(list(texts))):
        tokens = encoding.ids or lone
        if not tokens:
            raise ValueError(
                f"{texts[row]!r} has no tokens, and {folder / 'config.json'} names no bos_token_id, "
                "eos_token_id or pad_token_id to stand for it; add one"
            )
        where = slice(length - len(tokens), None) if left else slice(len(tokens))
        ids[row, where], mask[row, where] = tokens, True
    return ids, mask


@functools.lru_cache(maxsize=8)
def _tokenizer(folder: Path, length: int) -> Any:
    """One per length: changing the truncation of a tokenizer that another thread is using would be a race."""
    try:
        # Where the extra is not installed, pyright takes this name for our own `jaxtok.tokenizers`.
        from tokenizers import Tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise ImportError(
            "subword text needs the package `tokenizers`: pip install 'jaxtok[text]'"
        ) from error
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}; copy it there from the checkpoint")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    return tokenizer


@functools.lru_cache(maxsize=8)
def _special_ids(folder: Path) -> tuple[int, list[int]]:
    """The padding id, and the token that stands for a text without any, in a list that is empty if there is
    none.
    """
    file = folder / "config.json"
    config = read_object(file, {}, "Copy the model's config.json again.") if file.is_file() else {}
    # Llama 3 lists several ends.
    named = [config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")]
    named = [ids[0] if isinstance(ids, list) else ids for ids in named]
    # Some configurations say -1 for none.
    named = [None if token is None or token < 0 else token for token in named]
    return named[2] or 0, [token for token in named if token is not None][:1]
