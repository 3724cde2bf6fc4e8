"""A plan as a table, and as JSON."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxtok.run.plan.devices import Topology
from jaxtok.run.plan.messages import COLLECTIVES
from jaxtok.run.plan.stages import StagePlan

_ROWS: tuple[tuple[str, Callable[[StagePlan, int], str]], ...] = (
    ("trained parameters", lambda p, n: f"{p.parameters:,}"),
    ("frozen parameters", lambda p, n: f"{p.frozen_parameters:,}"),
    ("batch", lambda p, n: f"{p.batch:,}"),
    ("an example", lambda p, n: p.inputs),
    ("arguments", lambda p, n: _size(p.program.memory.arguments)),
    (
        "outputs (aliased)",
        lambda p, n: f"{_size(p.program.memory.outputs)} ({_size(p.program.memory.aliased)})",
    ),
    ("temporaries", lambda p, n: _size(p.program.memory.temporaries)),
    ("code", lambda p, n: _size(p.program.memory.code)),
    ("total", lambda p, n: _size(p.program.memory.total)),
    ("fits", lambda p, n: "yes" if p.program.fits else "NO"),
    ("TFLOP: model / chips", lambda p, n: _tera(p.model_flops / n)),
    ("TFLOP: as written / chips", lambda p, n: _tera(p.program.jaxpr_flops / n)),
    ("TFLOP: compiled", lambda p, n: _tera(p.program.costs and p.program.costs.flops)),
    ("moved in memory", lambda p, n: _size(p.program.costs and p.program.costs.bytes)),
)
_BOUNDS: tuple[tuple[str, Callable[[StagePlan, int], str]], ...] = (
    ("least ms: arithmetic", lambda p, n: _milli(p.program.bounds and p.program.bounds.compute)),
    ("least ms: memory", lambda p, n: _milli(p.program.bounds and p.program.bounds.memory)),
    ("least ms: links", lambda p, n: _milli(p.program.bounds and p.program.bounds.links)),
    ("ceiling of utilisation", lambda p, n: "-" if p.ceiling is None else f"{p.ceiling:.0%}"),
    ("compiled in, s", lambda p, n: f"{p.program.seconds:.0f}"),
)


def print_plan(plans: Sequence[StagePlan], topology: Topology, mesh: str, notes: Sequence[str]) -> None:
    """Prints a column per stage, and below it where memory and messages come from."""
    console = Console(width=None if Console().is_terminal else 120)
    chips = len(topology.devices)
    chip = topology.chip
    figures = (
        f"{topology.name}: {chips} chips, mesh {mesh}; per chip {_size(chip.memory)}, "
        f"{chip.flops / 1e12:.0f} TFLOP/s bfloat16, memory {_size(chip.bandwidth)}/s, "
        f"links {_size(chip.link)}/s ({chip.source})\n{topology.compiler}. All figures are per chip and step."
    )
    console.print(figures, highlight=False, soft_wrap=True)
    for note in (*notes, *([topology.caveat] if topology.caveat else [])):
        console.print(f"Note: {note}.", highlight=False, soft_wrap=True)
    table = Table("", *(plan.stage for plan in plans))
    for title, cell in _ROWS:
        table.add_row(title, *(cell(plan, chips) for plan in plans))
    for kind in COLLECTIVES:
        cells = [_collective(plan, kind) for plan in plans]
        if any(cell != "-" for cell in cells):
            table.add_row(f"{kind}", *cells)
    for title, cell in _BOUNDS:
        table.add_row(title, *(cell(plan, chips) for plan in plans))
    console.print(table)
    for plan in plans:
        for line in _details(plan):
            console.print(line, highlight=False, soft_wrap=True)


def _details(plan: StagePlan) -> list[str]:
    if plan.program.refusal:
        return [f"{plan.stage}: {plan.program.refusal}"]
    counted = plan.program.costs
    if counted is None:
        return []
    lines = [f"{plan.stage}: largest temporaries"]
    lines += [f"  {_size(t.bytes):>8}  {t.array}  {t.place}" for t in counted.largest[:5]]
    if counted.messages:
        lines.append(f"{plan.stage}: largest collectives")
        lines += [
            f"  {_size(m.bytes):>8}  {m.count:,} x {m.kind} {m.array}  {m.place}"
            for m in counted.messages[:5]
        ]
    if counted.opaque:
        lines.append(f"{plan.stage}: {counted.opaque} calls of kernels, whose arithmetic is not counted")
    return lines


def write_plan(path: Path, header: dict[str, Any], plans: Sequence[StagePlan], topology: Topology) -> None:
    """Writes everything as JSON; bytes and FLOPs are per chip, and per call."""
    content = {
        **header,
        "topology": topology.name,
        "chips": len(topology.devices),
        "chip": dataclasses.asdict(topology.chip),
        "compiler": topology.compiler,
        "caveat": topology.caveat,
        "flops_counted_from": "dots and convolutions of the compiled program, times the trip counts of loops",
        "stages": [stage_json(plan) for plan in plans],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def stage_json(plan: StagePlan) -> dict[str, Any]:
    """One stage as plain JSON values."""
    values = dataclasses.asdict(plan)
    bounds = plan.program.bounds
    if bounds is not None:
        values["program"]["bounds"] |= {"seconds": bounds.seconds, "limit": bounds.limit}
    return values


def _collective(plan: StagePlan, kind: str) -> str:
    counted = plan.program.costs
    if counted is None or kind not in counted.collectives:
        return "-"
    total = counted.collectives[kind]
    return f"{_size(total.bytes)} in {total.count:,}"


def _size(value: int | float | None) -> str:
    if value is None:
        return "-"
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:,.{max(0, 3 - len(str(int(value / unit))))}f} {name}"
    return f"{value:.0f} B"


def _tera(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e12:,.3f}"


def _milli(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:,.2f}"
