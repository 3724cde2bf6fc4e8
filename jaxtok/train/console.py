"""Progress of a run on the terminal."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class ConsoleWriter:
    """A progress bar with speed and remaining time on a terminal, plain lines in a log file.

    Speed is measured between calls of `scalars` with different steps, so the first one, which waits for the
    compiler, does not count.

    Args:
      stage: Name of the stage.
      total_steps: Where it ends.
      examples_per_step: Global batch size.
      step: Where it begins.
      file: Text stream to write to; standard output by default.
      clock: Seconds, monotonic.
    """

    def __init__(
        self,
        stage: str,
        total_steps: int,
        examples_per_step: int,
        step: int = 0,
        file: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stage, self._total, self._examples = stage, total_steps, examples_per_step
        self._file = file or sys.stdout
        self._clock = clock
        self._last: tuple[int, float] | None = None
        self._seconds_per_step: float | None = None
        self._progress: Progress | None = None
        if self._file.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self._file),
            )
            self._task = self._progress.add_task(stage, total=total_steps, completed=step, note="compiling")
            self._progress.start()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._measure(step)
        note = " | ".join([*self._speed(step), *(f"{name} {value:.4g}" for name, value in values.items())])
        if self._progress is not None:
            self._progress.update(self._task, completed=step, note=note)
        else:
            self._print(f"{self._stage} {step}/{self._total} | {note}")

    def text(self, step: int, name: str, text: str) -> None:
        self._print(f"{self._stage} {step}/{self._total} | {name}: {text}")

    def image(self, step: int, name: str, image: Any) -> None:
        """Terminals show no pictures."""

    def hparams(self, values: dict[str, Any]) -> None:
        """Too long for a terminal; see `config.json`."""

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _measure(self, step: int) -> None:
        now = self._clock()
        if self._last is not None and step > self._last[0]:
            seconds = (now - self._last[1]) / (step - self._last[0])
            before = self._seconds_per_step
            self._seconds_per_step = seconds if before is None else 0.7 * before + 0.3 * seconds
        if self._last is None or step > self._last[0]:
            self._last = (step, now)

    def _speed(self, step: int) -> list[str]:
        if not self._seconds_per_step:
            return []
        left = timedelta(seconds=round((self._total - step) * self._seconds_per_step))
        return [f"{self._examples / self._seconds_per_step:.4g} examples/s", f"{left} left"]

    def _print(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._file, flush=True)
