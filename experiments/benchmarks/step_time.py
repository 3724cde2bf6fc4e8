"""Step time of Instella-T2I in jaxtok and in PyTorch, on CPU.

What is measured, in float32, for the `tiny` preset (8x8 digits, batch 64) and a middle size
(`InstellaT2I.small`: 32x32 pixels, batch 32):

* a training step (forward, backward, AdamW) of the tokenizer, the diffusion prior and the autoregressive
  prior: jaxtok compiled, PyTorch eager with the fused AdamW, with `--compile` also through `torch.compile`;
* the same step as jaxtok's train loop runs it: with schedule, clipping, running average, norms, metrics;
* sampling a batch from both priors with guidance: autoregressive with a cache of keys and values, diffusion
  in 20 steps.

How: the PyTorch side (`torch_instella.py`, `torch_priors.py`) is the same architecture, gets jaxtok's weights
through the tables of the official state dict, and its outputs, loss and gradients must agree to 1e-4 before
anything is timed. Both sides run in one process on the same cores, in blocks of about `--block-seconds` that
take turns, with the order reversed in every second round. A round gives one ratio, PyTorch's time over
jaxtok's: above 1, jaxtok is faster. The table shows the median and the range over the rounds, for wall clock
and for the process's CPU time. Absolute times are only for orientation. On a machine that other processes
use, wall clock with several threads punishes whoever waits at more barriers between them (eager PyTorch),
without bound; `--threads 1` and its CPU time hardly depend on the others.

    pip install -e ".[bench]"         # on CPU take the CPU build of PyTorch
    python -m experiments.benchmarks.step_time --out runs/step_time.json
    python -m experiments.benchmarks.step_time --threads 1 --out runs/step_time_1.json
"""

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
      sizes: which sizes, of "tiny" and "small".
      tasks: which tasks, such as "train tokenizer" or "sample diffusion"; all if empty.
      rounds: how often every side gets its turn.
      block_seconds: how long a turn is, about.
      threads: cores that the process may use, and threads of PyTorch.
      keep_memory: freed memory stays with the process, as jaxtok's command line has it
        (`jaxtok.train.host_memory`); both sides profit.
      compile: also time PyTorch's step through `torch.compile` (needs a C++ compiler).
      out: where the JSON goes.
    """

    sizes: tuple[str, ...] = ("tiny", "small")
    tasks: tuple[str, ...] = ()
    rounds: int = 7
    block_seconds: float = 1.0
    threads: int = 2
    keep_memory: bool = True
    compile: bool = False
    out: Path = Path("runs/step_time.json")


def interleaved(
    sides: dict[str, Any], rounds: int, block_seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Seconds per iteration of each side in each round, by clock: "wall" and "cpu" (of all threads).

    Args:
      sides: by name, functions that run a number of iterations.
      rounds: turns per side.
      block_seconds: length of a turn; at least one iteration.
    """
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}

    def seconds(run, count):
        start = {name: clock() for name, clock in clocks.items()}
        run(count)
        return {name: (clock() - start[name]) / count for name, clock in clocks.items()}

    counts = {}
    for name, run in sides.items():
        run(2)  # compiles
        counts[name] = max(1, round(block_seconds / min(seconds(run, 1)["wall"] for _ in range(3))))
    times = {clock: {name: [] for name in sides} for clock in clocks}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            sides[name](1)  # caches and threads of the other side make way
            for clock, value in seconds(sides[name], counts[name]).items():
                times[clock][name].append(value)
    return times


def ratios(times: dict[str, list[float]], reference: str = "torch") -> dict[str, dict[str, float]]:
    """How many times as fast as the reference each side is: median, least and greatest over the rounds."""
    found = {}
    for name, own in times.items():
        per_round = sorted(theirs / mine for theirs, mine in zip(times[reference], own))
        found[name] = {"median": statistics.median(per_round), "low": per_round[0], "high": per_round[-1]}
    return found


def measure(options: Options) -> list[dict[str, Any]]:
    """Runs everything; one record per size and task."""
    if hasattr(os, "sched_setaffinity"):
        # Before JAX starts: the size of its thread pool is the number of cores that it may use.
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        os.sched_setaffinity(0, cores)
    if options.keep_memory:
        from jaxtok.train.host_memory import keep_freed_memory

        keep_freed_memory()
    import torch

    from experiments.benchmarks.step_time_cases import TASKS, cases

    torch.set_num_threads(options.threads)
    records = []
    for size in options.sizes:
        for case in cases(size, options.tasks or TASKS, options.compile):
            print(f"{size}, {case.task}: differences {case.differences}", flush=True)
            times = interleaved(case.sides, options.rounds, options.block_seconds)
            records.append(
                {
                    "size": size,
                    "task": case.task,
                    "differences": case.differences,
                    "milliseconds": {
                        name: 1e3 * statistics.median(own) for name, own in times["wall"].items()
                    },
                    "times_as_fast_as_torch": {clock: ratios(own) for clock, own in times.items()},
                    "seconds": times,
                }
            )
            print(records[-1]["times_as_fast_as_torch"], flush=True)
    return records


def versions() -> dict[str, str]:
    """What was compared."""
    import jax
    import torch

    return {"jax": jax.__version__, "torch": torch.__version__, "platform": jax.default_backend()}


def table(records: list[dict[str, Any]]) -> Table:
    """The records for a terminal."""
    shown = Table(
        title="Times as fast as eager PyTorch: by wall clock, and below it by CPU time; median (range)"
    )
    others = list(dict.fromkeys(name for r in records for name in r["milliseconds"] if name != "torch"))
    for column in ("size", "task", "torch ms", *others):
        shown.add_column(column)
    for record in records:
        cells = [record["size"], record["task"], f"{record['milliseconds']['torch']:.1f}"]
        for name in others:
            found = [record["times_as_fast_as_torch"][clock].get(name) for clock in ("wall", "cpu")]
            cells.append("\n".join("{median:.2f} ({low:.2f}-{high:.2f})".format(**r) for r in found if r))
        shown.add_row(*cells)
    return shown


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    options = tyro.cli(Options, description=__doc__)
    records = measure(options)
    Console().print(table(records))
    report = {"options": asdict(options), "versions": versions(), "records": records}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
