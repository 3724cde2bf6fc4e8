"""Text: int32 [T] token ids, bytes unless a vocabulary says otherwise."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtok.evaluate.protocol import Result
from jaxtok.modality.contract import Meter

_SHOWN = 88  # characters of a text in a figure


class TokenMeter:
    """Share of tokens that are the original's."""

    def __init__(self) -> None:
        self._right = self._tokens = 0

    def update(self, original: Any, restored: Any, valid: Any = None, mask: Any = None, /) -> None:
        """Adds a batch of ids [B, T]."""
        right = np.asarray(original) == np.asarray(restored)
        kept = np.ones(right.shape, bool) if mask is None else np.asarray(mask)
        kept = kept if valid is None else kept & np.asarray(valid)[:, None]
        self._right, self._tokens = self._right + int(right[kept].sum()), self._tokens + int(kept.sum())

    def results(self, **protocol: Any) -> list[Result]:
        """`token_accuracy`; none of an empty split."""
        stated = {**protocol, "tokens": self._tokens}
        return [Result("token_accuracy", self._right / self._tokens, stated)] if self._tokens else []


@dataclasses.dataclass(frozen=True)
class TextModality:
    """See `jaxtok.modality.contract.Modality`.

    Attributes:
      alphabet: what each id stands for; empty for bytes.
    """

    alphabet: str = ""

    @property
    def key(self) -> str:
        """Name in batches."""
        return "tokens"

    @property
    def noun(self) -> str:
        """What messages call several."""
        return "texts"

    def from_user(self, values: Any, **options: Any) -> np.ndarray:
        """Ids [B, T] -> int32, or texts of one length.

        Raises:
          ValueError: another shape or dtype, or texts of different lengths.
        """
        if options:
            raise ValueError(f"text takes no {', '.join(options)}; leave it out")
        if isinstance(values, str) or (len(values) and isinstance(values[0], str)):
            values = [self.ids(text) for text in ([values] if isinstance(values, str) else values)]
            if len({len(row) for row in values}) > 1:
                raise ValueError("texts of different lengths; encode a batch with its mask instead")
        values = np.asarray(values)
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"text is {values.dtype} of shape {values.shape}; expected ids [B, T]")
        return values.astype(np.int32)

    def ids(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
          ValueError: a character is not in the alphabet.
        """
        if not self.alphabet:
            return list(text.encode())
        if unknown := sorted(set(text) - set(self.alphabet)):
            raise ValueError(f"characters {unknown} are not in the alphabet {self.alphabet!r}")
        return [self.alphabet.index(character) for character in text]

    def text(self, ids: Any) -> str:
        """The text of ids [T]; bytes that are no UTF-8 become the replacement character."""
        if self.alphabet:
            return "".join(self.alphabet[int(token)] for token in ids)
        return bytes(int(token) for token in ids).decode(errors="replace")

    def to_user(self, values: Any) -> Any:
        """Ids."""
        return jnp.asarray(values)

    def units(self, shape: Sequence[int]) -> Mapping[str, float]:
        """Tokens of a text [T]."""
        return {"tokens": float(shape[0])}

    def write(
        self, folder: Path, values: np.ndarray, names: Sequence[str], lengths: Sequence[int] | None = None
    ) -> list[Path]:
        """TXT files, UTF-8."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.txt" for name in names]
        for number, (file, value) in enumerate(zip(files, values, strict=True)):
            file.write_text(self.text(value if lengths is None else value[: lengths[number]]) + "\n", "utf-8")
        return files

    def _page(self, rows: Sequence[tuple[str, str]], title: str) -> Any:
        import matplotlib.pyplot as plt

        shown = lambda text: text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
        lines = [f"{name}: {shown(text)!r}" for name, text in rows]
        figure = plt.figure(figsize=(9, 0.28 * len(lines) + 0.6))
        page = "\n".join(lines).replace("$", r"\$")
        figure.text(0.02, 0.92, page, va="top", family="monospace", fontsize=9)
        if title:
            figure.suptitle(title, fontsize=10)
        return figure

    def reconstructions(self, original: np.ndarray, restored: np.ndarray, title: str) -> Any:
        """Texts below each other."""
        pairs = zip(original[:10], restored[:10], strict=True)
        rows = [row for x, y in pairs for row in (("original", self.text(x)), ("restored", self.text(y)))]
        return self._page(rows, title)

    def samples(self, values: np.ndarray, captions: Sequence[str], columns: int, title: str = "") -> Any:
        """Texts, a line each."""
        rows = [(captions[n // columns], self.text(value)) for n, value in enumerate(values)]
        return self._page(rows[:20], title)

    def meter(self) -> Meter:
        """Token accuracy."""
        return TokenMeter()
