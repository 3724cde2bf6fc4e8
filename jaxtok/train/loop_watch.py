"""What the loop spends its time with beside the steps: waiting for data, and compiling again."""

import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
_WARM_UP = 10  # steps before a trace begins


@functools.cache
def _compilations() -> list[int]:
    """How many programs this process has compiled since this was first called; one list, counted up.

    JAX has no way to take a listener away, so there is one for the whole process.
    """
    count = [0]

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        count[0] += event == _COMPILED

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


class LoopWatch:
    """Counts what should not happen in a loop that is warm.

    Attributes:
      recompiled: programs compiled during a step whose batch had shapes that were seen before.
      shapes: how many different shapes batches had.
    """

    def __init__(self) -> None:
        self.recompiled = self.shapes = 0
        self._seen: set[Any] = set()
        self._count = _compilations()
        self._waited = 0.0
        self._since: float | None = None

    def next(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time until it is there counts from the second one on."""
        start = time.monotonic()
        batch = next(batches)
        if self._since is not None:
            self._waited += time.monotonic() - start
        return batch

    def call(self, update: Any, state: Any, batch: Mapping[str, Any], *rest: Any) -> Any:
        """Runs a step and sees whether it compiled anything."""
        shapes, before = tuple((name, batch[name].shape) for name in sorted(batch)), self._count[0]
        result = update(state, batch, *rest)
        if shapes in self._seen:
            self.recompiled += self._count[0] - before
        self._seen.add(shapes)
        self.shapes = len(self._seen)
        if self._since is None:
            self._since = time.monotonic()  # compiled
        return result

    @property
    def waiting(self) -> float:
        """Share of the time, since the first step had compiled, in which the loop waited for data.

        Accelerators compute meanwhile, so this is the most that data can have cost.
        """
        return self._waited / max(time.monotonic() - self._since, 1e-9) if self._since else 0.0

    def describe(self) -> str:
        """One line for the end of a stage."""
        return (
            f"{self.recompiled} recompilations in steps after the warm-up of {self.shapes} batch "
            f"shape{'s' * (self.shapes != 1)}; {self.waiting:.1%} of the time waiting for data"
        )


class Trace:
    """A profile of some steps, for TensorBoard, XProf or Perfetto.

    Args:
      folder: where it goes.
      steps: how many; 0 for none.
    """

    def __init__(self, folder: Path, steps: int):
        self._folder, self._steps, self._open = folder, steps, False

    def after(self, done: int, state: Any) -> None:
        """To be called after every step, with how many this run has done; begins and ends the trace."""
        if self._steps and done == _WARM_UP:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._open = True
        elif done == _WARM_UP + self._steps:
            self.close(state)

    def close(self, state: Any) -> None:
        """Ends a trace that is open."""
        if self._open:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._open = False
            print(f"{self._steps} steps are profiled in {self._folder}", flush=True)
