"""Does a run survive what happens to it for half an hour? Training with random kills, watched from outside.

A process trains the tokenizer of `tiny` and is killed (SIGKILL) after a random time, again and again; each
life continues from the newest whole checkpoint. Measured from outside, once a second:

* memory: growth of the resident set without file pages (process and children) over each life, from `--settle`
  seconds after its first step to its end: mean of the second half over mean of the first;
* step time: steps per second in each life, and processor seconds per step, which other work on the machine
  hardly changes, so that a run that slows down with steps, restarts or checkpoints shows;
* descriptors and threads, which come and go with every save: median of the second half less median of the
  first, and the largest number;
* progress: no life may begin before the last whole checkpoint of the one before.

    python -m experiments.benchmarks.soak --out experiments/benchmarks/soak.json     # half an hour
    python -m experiments.benchmarks.soak --minutes 2 --least 20 --most 40
"""

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).parents[2]
_STEP = re.compile(r"tokenizer (\d+)/")


@dataclass(frozen=True)
class Options:
    """How to soak.

    Attributes:
      minutes: how long.
      least: shortest life, seconds.
      most: longest life, seconds.
      settle: seconds after the first step before memory counts; the first checkpoint lies in them.
      save_every: steps between checkpoints.
      seed: of the moments.
      out: where the JSON goes.
    """

    minutes: float = 30.0
    least: float = 90.0
    most: float = 300.0
    settle: float = 45.0
    save_every: int = 200
    seed: int = 0
    out: Path = Path("runs/soak.json")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children that no file backs, from /proc.

    Pages of files (programs, libraries) come and go as the kernel needs room, whatever the process does.
    """
    total, waiting = 0, [pid]
    while waiting:
        number = waiting.pop()
        try:
            status = Path(f"/proc/{number}/status").read_text()
            children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        except OSError:
            continue  # it has just ended
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        total += 1024 * int(found[1]) if found else 0  # none: it has ended and waits for its parent
        waiting += map(int, children)
    return total


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all threads; 0 when it has ended."""
    try:
        # The name in parentheses may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors_and_threads(pid: int) -> tuple[int, int]:
    """Open file descriptors and threads of a process; (0, 0) when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0, 0


class Life:
    """One process, from its start to its kill."""

    def __init__(self, workdir: Path, save_every: int):
        command = [sys.executable, str(ROOT / "experiments/image/instella_t2i.py"), "train"]
        flags = {
            "workdir": workdir,
            "only": "tokenizer",
            "tokenizer.steps": 100_000_000,
            "log_every": 20,
            "save_every": save_every,
        }
        for name, value in flags.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        self.steps: list[tuple[float, int]] = []
        self.cpu: list[tuple[float, float]] = []  # when a step was told, processor time until then
        self.memory: list[tuple[float, int]] = []
        self.handles: list[tuple[float, tuple[int, int]]] = []  # descriptors and threads
        self.last_words: list[str] = []
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last_words = [*self.last_words[-20:], line.rstrip()]
            if found := _STEP.match(line):
                self.steps.append((time.monotonic(), int(found[1])))
                self.cpu.append((self.steps[-1][0], cpu_seconds(self.process.pid)))

    def live(self, seconds: float, enough: Callable[[], bool] = lambda: True) -> None:
        """Watches the process for some seconds after its first step, or until it is enough, then kills it.

        Raises:
          RuntimeError: it ended by itself.
        """
        while (by_itself := self.process.poll()) is None:
            now = time.monotonic()
            if self.steps:
                self.memory.append((now, resident_bytes(self.process.pid)))
                self.handles.append((now, descriptors_and_threads(self.process.pid)))
                if now - self.steps[0][0] > seconds and enough():
                    break
            time.sleep(1)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if by_itself is not None:
            raise RuntimeError("the run ended by itself:\n" + "\n".join(self.last_words))

    def record(self, settle: float) -> dict[str, Any]:
        """What was seen."""
        start = self.steps[0][0]
        steps = [(t - start, step) for t, step in self.steps if t - start >= settle]
        memory = [(t - start, size) for t, size in self.memory if t - start >= settle]
        record: dict[str, Any] = {
            "seconds": self.steps[-1][0] - start,
            "first_step": self.steps[0][1],
            "last_step": self.steps[-1][1],
        }
        if len(steps) > 2 and len(memory) > 10:
            half = len(memory) // 2
            early, late = (statistics.fmean(m for _, m in part) for part in (memory[:half], memory[half:]))
            count = steps[-1][1] - steps[0][1]
            cpu = [used for t, used in self.cpu if t - start >= settle and used]
            record["steps_per_second"] = count / (steps[-1][0] - steps[0][0])
            record["cpu_seconds_per_step"] = (cpu[-1] - cpu[0]) / count
            record["megabytes"] = statistics.fmean(size for _, size in memory) / 1e6
            record["memory_growth"] = late / early - 1
            handles = [counts for t, counts in self.handles if t - start >= settle and counts[0]]
            for name, counts in zip(("descriptors", "threads"), zip(*handles)):
                half = len(counts) // 2
                early, late = statistics.median(counts[:half]), statistics.median(counts[half:])
                record |= {name: early, f"{name}_growth": late - early, f"{name}_largest": max(counts)}
        return record


def soak(options: Options, workdir: Path) -> dict[str, Any]:
    """Lives and kills, and what they add up to.

    Raises:
      RuntimeError: a life ended by itself, or lost steps that were saved.
    """
    moments, end, lives = random.Random(options.seed), time.monotonic() + 60 * options.minutes, []
    checkpoints = workdir / "checkpoints" / "tokenizer"
    while time.monotonic() < end:
        saved = max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0)
        life = Life(workdir, options.save_every)
        life.live(min(moments.uniform(options.least, options.most), max(end - time.monotonic(), 5)))
        lives.append(life.record(options.settle) | {"saved_before": saved})
        print(lives[-1], flush=True)
        if life.steps[0][1] <= saved and saved:
            raise RuntimeError(f"a life began at step {life.steps[0][1]}, before the checkpoint of {saved}")
    measured = [life for life in lives if "memory_growth" in life]
    thirds = max(len(measured) // 3, 1)

    def last_over_first(name: str) -> float | None:
        own = [life[name] for life in measured]
        return statistics.fmean(own[-thirds:]) / statistics.fmean(own[:thirds]) if own else None

    return {
        "options": asdict(options),
        "lives": lives,
        "kills": len(lives),
        "steps": lives[-1]["last_step"],
        "memory_growth_largest": max((life["memory_growth"] for life in measured), default=None),
        "descriptors_growth_largest": max((life["descriptors_growth"] for life in measured), default=None),
        "threads_growth_largest": max((life["threads_growth"] for life in measured), default=None),
        "speed_last_over_first_third": last_over_first("steps_per_second"),
        "cpu_seconds_per_step_last_over_first_third": last_over_first("cpu_seconds_per_step"),
    }


def main() -> None:
    """Soaks, prints and writes what was found."""
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(options, Path(folder) / "run")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2, default=str) + "\n")
    print({name: value for name, value in found.items() if name not in ("lives", "options")})


if __name__ == "__main__":
    main()
