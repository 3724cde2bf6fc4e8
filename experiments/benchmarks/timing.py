"""Timing of several sides that take turns, for iterations from microseconds to a minute."""

import statistics
import time
from collections.abc import Callable

Times = dict[str, dict[str, list[float]]]  # by clock and side
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_FEWEST_ROUNDS = 3


def take_turns(
    sides: dict[str, Callable[[int], None]], rounds: int, block_seconds: float, case_seconds: float
) -> Times:
    """Seconds per iteration of each side in each round, by clock: "wall" and "cpu" (of all threads).

    Args:
      sides: by name, functions that run a number of iterations and wait for them.
      rounds: turns per side.
      block_seconds: length of a turn; at least one iteration. Longer iterations than that need no warm-up.
      case_seconds: rounds that would end later than this are left out, down to three.
    """
    start, counts = time.perf_counter(), {}
    for name, run in sides.items():
        run(1)
        counts[name] = max(1, round(block_seconds / max(_seconds(run, 1)["wall"], 1e-9)))
    times: Times = {clock: {name: [] for name in sides} for clock in _CLOCKS}
    first = time.perf_counter()
    for number in range(rounds):
        if number >= _FEWEST_ROUNDS:
            now = time.perf_counter()
            if now - start + (now - first) / number > case_seconds:
                break
        for name in list(sides)[:: -1 if number % 2 else 1]:
            if counts[name] > 1:
                sides[name](1)  # caches and threads of the other side make way
            for clock, value in _seconds(sides[name], counts[name]).items():
                times[clock][name].append(value)
    return times


def _seconds(run: Callable[[int], None], count: int) -> dict[str, float]:
    start = {name: clock() for name, clock in _CLOCKS.items()}
    run(count)
    return {name: (clock() - start[name]) / count for name, clock in _CLOCKS.items()}


def times_as_fast(times: Times, name: str) -> dict[str, dict[str, dict[str, float]]]:
    """How many times as fast as each other side one is, by clock: median, least and greatest over rounds."""
    found = {}
    for clock, by_side in times.items():
        found[clock] = {}
        for other in by_side:
            if other != name:
                per_round = sorted(theirs / mine for theirs, mine in zip(by_side[other], by_side[name]))
                found[clock][other] = {
                    "median": statistics.median(per_round),
                    "low": per_round[0],
                    "high": per_round[-1],
                }
    return found
