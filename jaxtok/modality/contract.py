"""What the library needs to know of a kind of signal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxtok.evaluate.protocol import Result


@runtime_checkable
class Meter(Protocol):
    """Reconstructions against originals, summed over batches."""

    def update(self, original: Any, restored: Any, valid: Any = None, mask: Any = None, /) -> None:
        """Adds a batch; `valid` bool [B] leaves rows out, `mask` bool [B, T] what of a row is padding."""
        ...

    def results(self, **protocol: Any) -> list[Result]:
        """What was measured."""
        ...


@runtime_checkable
class Modality(Protocol):
    """A kind of signal, static: no state, hashable."""

    @property
    def key(self) -> str:
        """Its name in batches, such as "image"."""
        ...

    @property
    def noun(self) -> str:
        """What messages call several of it, such as "images"."""
        ...

    def from_user(self, values: Any, **options: Any) -> np.ndarray:
        """Arrays of a user as a model takes them.

        Raises:
          ValueError: another shape, dtype or range.
        """
        ...

    def to_user(self, values: Any) -> Any:
        """A model's float arrays as they are written and shown; works on JAX and NumPy arrays."""
        ...

    def units(self, shape: Sequence[int]) -> Mapping[str, float]:
        """How much signal an example of this shape is, by unit, such as {"pixels": 64}; the first is that of
        rates.
        """
        ...

    def write(
        self, folder: Path, values: np.ndarray, names: Sequence[str], lengths: Sequence[int] | None = None
    ) -> list[Path]:
        """Writes one file per example, and says which.

        Args:
          folder: created if absent.
          values: of `to_user`, [B, ...].
          names: of the files, without ending.
          lengths: how much of each example is real; None for all of it.
        """
        ...

    def reconstructions(self, original: np.ndarray, restored: np.ndarray, title: str) -> Any:
        """A Matplotlib figure of originals beside reconstructions."""
        ...

    def samples(self, values: np.ndarray, captions: Sequence[str], columns: int, title: str = "") -> Any:
        """A Matplotlib figure of samples, a row per caption."""
        ...

    def meter(self) -> Meter:
        """The default metrics of reconstructions."""
        ...
