"""Speed and memory of quantizers in jaxtok and in `vector-quantize-pytorch`.

What is measured, in float32:

* look-up: codes and their values for features that are there, nothing to differentiate;
* a training step: forward pass, losses, backward pass to the features from a gradient as a decoder would send
  it, and the moving averages of the codebook;

for vector quantization (Euclidean, K codes of width D), residual vector quantization, look-up free
quantization with its entropy terms, and finite scalar quantization. Next to `vector-quantize-pytorch` ("vqp")
stands plain PyTorch: one fused matrix product and an argmax, everything else by index and in place, the
strongest thing that one would write by hand.

How: all sides get the same features and codebooks, and their codes must be equal (two codes whose distances
differ by less than 1e-5 of |z|^2 + |e|^2 count as equally near), then values, loss, gradient and moved
codebooks must agree to 1e-4 (1e-3 for the entropy terms of look-up free quantization, which are exact here
and floored there), before anything is timed. The sides then run in one process on the same cores, in blocks
of about `--block-seconds` that take turns, with the order reversed in every second round. A round gives one
ratio, the other side's time over jaxtok's: above 1, jaxtok is faster. The table shows the median and the
range over the rounds.

Memory is measured for each side in a process of its own (`quantizers_memory.py`): growth of the resident set
at its peak, during one iteration. For jaxtok the JSON also has what the compiler planned, temporaries and
outputs. What would not fit in `--memory-limit` is not tried: the estimate is shown, and the comparison is
made with fewer tokens, in a row of its own.

`--keep-memory` lets freed memory stay with the process (`jaxtok.train.host_memory`). Without it, with the
default of the C library, every large array is faulted in again whenever it is made, which makes up more than
half of the time of `vector-quantize-pytorch`; with it, that side is at its best.

    pip install -e ".[bench]"         # on CPU take the CPU build of PyTorch
    python -m experiments.benchmarks.quantizers --out runs/quantizers.json --markdown runs/quantizers.md
    python -m experiments.benchmarks.quantizers --device gpu     # look-up kernels and their roofline
"""

import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.benchmarks import quantizers_gpu, quantizers_memory, quantizers_tables
from experiments.benchmarks.quantizers_cases import (
    Case,
    Family,
    Side,
    Task,
    cases,
    disagreements,
    fewer_tokens,
    needed_bytes,
)
from experiments.benchmarks.timing import take_turns, times_as_fast


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
      families: kinds of quantizers, of "vq", "rvq", "lfq" and "fsq".
      tasks: "look-up" and "training step".
      tokens: N.
      codes: codebook sizes of "vq".
      widths: D of "vq".
      bits: of "lfq".
      depth: of "rvq".
      residual: K and D of "rvq".
      rounds: how often every side gets its turn; three at least, fewer when a case takes too long.
      block_seconds: how long a turn is, about.
      case_seconds: how long a case may take, about, before rounds are left out.
      threads: cores that the process may use, and threads of PyTorch.
      device: "cpu", or "gpu" for the look-up kernels on a GPU, see `quantizers_gpu.py`.
      keep_memory: freed memory stays with the process.
      memory: also measure peak memory.
      memory_limit: GB that a side may need; 0 for 60% of what is free.
      out: where the JSON goes.
      markdown: where a table for a README goes; none if not given.
    """

    families: tuple[Family, ...] = ("vq", "rvq", "lfq", "fsq")
    tasks: tuple[Task, ...] = ("look-up", "training step")
    tokens: int = 16_384
    codes: tuple[int, ...] = (1024, 8192, 65_536)
    widths: tuple[int, ...] = (8, 64, 256)
    bits: tuple[int, ...] = (14, 18)
    depth: int = 8
    residual: tuple[int, int] = (1024, 64)
    rounds: int = 5
    block_seconds: float = 0.5
    case_seconds: float = 120.0
    threads: int = 1
    device: Literal["cpu", "gpu"] = "cpu"
    keep_memory: bool = False
    memory: bool = True
    memory_limit: float = 0.0
    out: Path = Path("runs/quantizers.json")
    markdown: Path | None = None


def prepare(options: Options) -> int:
    """Cores, allocator and back end, before JAX and PyTorch start.

    Returns:
      Bytes that a side may need.
    """
    if options.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        if hasattr(os, "sched_setaffinity"):
            # The size of JAX's thread pool is the number of cores that it may use.
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.keep_memory:
        from jaxtok.train.host_memory import keep_freed_memory

        keep_freed_memory()
    import torch

    torch.set_num_threads(options.threads)
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if Path("/proc/meminfo").exists():
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    return int(options.memory_limit * 1e9) or int(0.6 * free)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Runs everything; one record per case, two where a side would not fit."""
    limit = prepare(options)
    wanted = cases(
        options.families,
        options.tasks,
        options.tokens,
        options.codes,
        options.widths,
        options.bits,
        options.depth,
        options.residual,
    )
    for case in wanted:
        sides = ("vqp", "torch") if case.family in ("vq", "rvq") else ("vqp",)
        needs = {side: needed_bytes(case, side) for side in sides}
        fit = [side for side in sides if needs[side] <= limit]
        left_out = {side: needs[side] for side in sides if side not in fit}
        yield record(case, fit, options) | {"does_not_fit": left_out}
        if left_out:
            for side in sides:
                case = fewer_tokens(case, side, limit)
            yield record(case, list(sides), options)


def record(case: Case, others: list[str], options: Options) -> dict[str, Any]:
    """Compares, times and weighs one case.

    Raises:
      ValueError: the sides do not compute the same.
    """
    names = ["jaxtok", *others]
    print(case, flush=True)
    bytes_of = {}
    if options.memory:
        bytes_of = {name: quantizers_memory.measure(case, name, options.threads) for name in names}
    sides: dict[str, Side] = {name: quantizers_memory.build(case, name) for name in names}
    mine = sides["jaxtok"].results()
    differences = {name: disagreements(case, mine, sides[name].results()) for name in others}
    runs = {name: side.run for name, side in sides.items()}
    seconds = take_turns(runs, options.rounds, options.block_seconds, options.case_seconds)
    found = times_as_fast(seconds, "jaxtok")
    print({name: f"{r['median']:.2f}" for name, r in found["wall"].items()}, flush=True)
    return {
        "case": asdict(case),
        "differences": differences,
        "milliseconds": {name: 1e3 * statistics.median(own) for name, own in seconds["wall"].items()},
        "jaxtok_times_as_fast_as": found,
        "bytes": bytes_of,
        "does_not_fit": {},
        "seconds": seconds,
    }


def main() -> None:
    """Measures, writes the JSON and the Markdown, prints the table."""
    options = tyro.cli(Options, description=__doc__)
    if options.device == "gpu":
        found, shown = quantizers_gpu.measure(options), quantizers_gpu
    else:
        found, shown = measure(options), quantizers_tables
    records: list[dict[str, Any]] = []
    report = {"options": asdict(options), "versions": quantizers_tables.versions(), "records": records}
    for path in filter(None, (options.out, options.markdown)):
        path.parent.mkdir(parents=True, exist_ok=True)
    for one in found:  # written as they come, so that a run that is stopped keeps what it has
        records.append(one)
        options.out.write_text(json.dumps(report, indent=2, default=str) + "\n")
        if options.markdown:
            options.markdown.write_text(shown.markdown(report))
    Console().print(shown.table(records))
    print(options.out)


if __name__ == "__main__":
    main()
