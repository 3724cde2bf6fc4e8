"""Images a second of sampling, for each kind of prior, in jaxtok and in PyTorch, on CPU.

What is measured, in float32 and with guidance: drawing one batch of codes

* `llamagen`: next token after next token, cached (arXiv 2406.06525), top-k 2000;
* `rar`: the same with RAR's network and course of guidance (arXiv 2411.00776);
* `maskgit`: 8 parallel steps of TiTok's MaskGIT (arXiv 2202.04200, 2406.07550);
* `var`: scale after scale of VAR (arXiv 2404.02905), 10 of them, top-k 900 and top-p 0.96.

In jaxtok each is one compiled call of `Prior.sample`; in PyTorch it is a loop (`torch_sampling.py`): once as
one would write it today, with a cache that is written in place and nothing that a step does not need, and for
the next-token priors once more with what the released code computes in a step. All sides have the same
weights, through the tables of the official state dicts, and before anything is timed all must draw the same
codes at temperature 0. All sides run in one process, in turns whose order is reversed in every second round.
A round gives one ratio for each pair: PyTorch's time over jaxtok's, and that of jaxtok's `llamagen` over
jaxtok's other priors. The report holds the median and the range over the rounds, for wall clock and for the
process's CPU time, which hardly depends on what else the machine does if there is one thread.

    pip install -e ".[bench]"         # on CPU take the CPU build of PyTorch
    taskset -c 0 python -m experiments.benchmarks.sampling --out runs/sampling.json
    taskset -c 0 python -m experiments.benchmarks.sampling --size published --cases llamagen rar

Another prior is one more function in `sampling_cases.py`.

What came out (`sampling.json`: size "small", batch 8, one thread of a quiet machine): times as fast as
PyTorch LlamaGen 2.03 (2.02 to 2.12), RAR 1.57, VAR 1.32, MaskGIT 0.93; as the loops as released LlamaGen 2.22
(2.18 to 2.28) and RAR 2.39 (2.33 to 2.56). On a CPU VAR (680 tokens) and MaskGIT in 8 steps draw fewer images
a second than LlamaGen (0.82 and 0.57 times as many): few steps are no gain where every step is limited by
arithmetic.
"""

import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.timing import take_turns, times_as_fast


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
      size: "tiny", "small" (4 layers, width 256) or "published" (LlamaGen-B, RAR-B, VAR-d16 and the generator
        of TiTok-L-32, which has 32 tokens and not 256).
      cases: which priors; all if empty.
      batch: images drawn at once.
      rounds: how often every side gets its turn.
      block_seconds: how long a turn is, about; at least one batch.
      case_seconds: rounds that would end later than this are left out, down to three.
      threads: of PyTorch. jaxtok has as many as the process may use cores (`taskset`).
      out: where the JSON goes.
    """

    size: Literal["tiny", "small", "published"] = "small"
    cases: tuple[str, ...] = ()
    batch: int = 8
    rounds: int = 7
    block_seconds: float = 1.0
    case_seconds: float = 1200.0
    threads: int = 1
    out: Path = Path("runs/sampling.json")


def measure(options: Options) -> dict[str, Any]:
    """Everything: what was compared, images a second, and ratios.

    Raises:
      ValueError: an unknown case, or two sides that do not draw the same.
    """
    import jax
    import torch

    from experiments.benchmarks.sampling_cases import CASES, SIZES

    torch.set_num_threads(options.threads)
    if unknown := sorted(set(options.cases) - set(CASES)):
        raise ValueError(f"cases {unknown} are unknown; there are {sorted(CASES)}")
    sides, compared = {}, {}
    for name in options.cases or CASES:
        case = CASES[name](SIZES[options.size], options.batch)
        compared[name] = {**case.description, "codes_that_differ_at_temperature_0": case.check()}
        sides |= {f"{name}/{side}": run for side, run in case.sides.items()}
        print(name, compared[name], flush=True)
    load = os.getloadavg()
    times = take_turns(sides, options.rounds, options.block_seconds, options.case_seconds)
    ours = [f"{name}/jaxtok" for name in compared]
    ratios = {name: times_as_fast(times, f"{name}/jaxtok") for name in compared}
    first = ours[0]

    def against(side: str) -> dict[str, Any]:
        others = {name: side.format(name=name) for name in compared}
        return {
            name: {clock: found[other] for clock, found in ratios[name].items()}
            for name, other in others.items()
            if other in times["wall"] and other != f"{name}/jaxtok"
        }

    return {
        "options": asdict(options),
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": {"before": load, "after": os.getloadavg()},
        "compared": compared,
        "images_per_second": {
            name: options.batch / statistics.median(own) for name, own in times["wall"].items()
        },
        "times_as_fast_as_torch": against("{name}/torch"),
        "times_as_fast_as_torch_as_released": against("{name}/torch as released"),
        f"times_as_fast_as_{first}": against(first),
        "seconds": times,
    }


def table(report: dict[str, Any]) -> Table:
    """The report for a terminal."""
    shown = Table(title="Images a second, and times as fast as PyTorch: median (range) over rounds")
    for column in ("prior", "against", "jaxtok", "torch", "wall", "CPU time"):
        shown.add_column(column, no_wrap=column != "against")
    for side in ("torch", "torch as released"):
        for name, ratios in report["times_as_fast_as_" + side.replace(" ", "_")].items():
            speeds = [f"{report['images_per_second'][f'{name}/{one}']:.3g}" for one in ("jaxtok", side)]
            cells = [
                "{median:.2f} ({low:.2f}-{high:.2f})".format(**ratios[clock]) for clock in ("wall", "cpu")
            ]
            shown.add_row(name, side, *speeds, *cells)
    return shown


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    options = tyro.cli(Options, description=__doc__)
    report = measure(options)
    Console().print(table(report))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2, default=str) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
