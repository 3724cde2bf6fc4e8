"""A stranger: an analysis that trains nothing, how often each letter of the stranger's sentences occurs."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxtok import cli
from jaxtok.evaluate.protocol import Result
from jaxtok.systems.base import SystemBase
from jaxtok.train.stage import Stage, TrainedStage
from tests.strangers.text import ALPHABET, SentenceData


@dataclasses.dataclass(frozen=True)
class Letters(SystemBase):
    """Nothing that has variables."""

    def shapes(self) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class LetterEvaluator:
    """Counts letters."""

    def _counts(self, trained: TrainedStage) -> np.ndarray:
        kept = [batch["tokens"][batch["valid"]] for batch in trained.batches()]
        return np.bincount(np.concatenate(kept).ravel(), minlength=len(ALPHABET))

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """The share of spaces."""
        counts = self._counts(trained)
        return [Result("share_of_spaces", counts[-1] / counts.sum(), {"letters": int(counts.sum())})]

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """A bar per letter."""
        figure, axes = plt.subplots()
        axes.bar(list(ALPHABET), self._counts(trained))
        return {"letters": figure}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what is computed."""

    data: SentenceData = SentenceData(batch_size=8)
    model: Letters = Letters()


def stages(config: Config) -> Iterator[Stage]:
    """The counts."""
    yield Stage("letters", None, config.data, 0, evaluator=LetterEvaluator())


PRESETS = {"tiny": Config()}


def main(argv: Sequence[str]) -> None:
    """The command line."""
    cli.main("letters", PRESETS, stages, (), __doc__, argv)
