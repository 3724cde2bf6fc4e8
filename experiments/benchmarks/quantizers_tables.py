"""Tables of what `quantizers.py` measured, for a terminal and for a README."""

import datetime
import platform
from pathlib import Path
from typing import Any

from rich.table import Table

COLUMNS = ("quantizer", "K", "D", "N", "jaxtok ms", "x vqp", "x torch", "jaxtok MB", "vqp MB", "torch MB")
_OTHERS = ("vqp", "torch")


def rows(records: list[dict[str, Any]], task: str, clock: str = "wall") -> list[tuple[str, ...]]:
    """Cells of the records of a task, in the order of `COLUMNS`."""
    found = []
    for record in records:
        case = record["case"]
        if case["task"] != task:
            continue
        name = case["family"].upper() + (f", {case['depth']} depths" if case["depth"] > 1 else "")
        cells = [name, *(f"{case[part]:,}" for part in ("codes", "width", "tokens"))]
        cells.append(_three_digits(record["milliseconds"]["jaxtok"]))
        ratios = record["jaxtok_times_as_fast_as"][clock]
        for other in _OTHERS:
            if other in ratios:
                cells.append("{median:.1f} ({low:.1f}-{high:.1f})".format(**ratios[other]))
            else:
                cells.append("out of memory" if other in record["does_not_fit"] else "")
        for side in ("jaxtok", *_OTHERS):
            if side in record["does_not_fit"]:
                cells.append(f"(about {record['does_not_fit'][side] / 1e6:,.0f})")
            else:
                cells.append(_megabytes(record["bytes"].get(side, {}).get("peak")))
        found.append(tuple(cells))
    return found


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.0f}" if value >= 1e7 else f"{value / 1e6:.1f}"


def tasks(records: list[dict[str, Any]]) -> list[str]:
    """The tasks that were measured."""
    return list(dict.fromkeys(record["case"]["task"] for record in records))


def table(records: list[dict[str, Any]]) -> Table:
    """The records for a terminal."""
    shown = Table(title="x: times as fast as the other side, median (range); MB: growth at the peak")
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for task in tasks(records):
        shown.add_section()
        shown.add_row(f"[bold]{task}")
        for cells in rows(records, task):
            shown.add_row(*cells)
    return shown


def markdown(report: dict[str, Any]) -> str:
    """The records for a README, with method and date."""
    options, version = report["options"], report["versions"]
    kept = "stays with the process" if options["keep_memory"] else "is handled by the C library's default"
    lines = [
        f"Measured on {version['date']} with `python -m experiments.benchmarks.quantizers`: "
        f"{version['processor']}, {options['threads']} thread(s), float32, JAX {version['jax']}, "
        f"PyTorch {version['torch']}, vector-quantize-pytorch {version['vector-quantize-pytorch']}. "
        "Codes, values, losses, gradients and moved codebooks were compared first. The sides take turns in "
        "one process; x is the other side's time over jaxtok's, median (range) over the rounds. MB is the "
        f"growth of the resident set at its peak in a process of each side's own. Freed memory {kept}. "
        "vqp: `vector-quantize-pytorch`; torch: a fused matrix product and an argmax by hand. What did not "
        "fit was compared with fewer tokens, in the row below.",
        "",
    ]
    for task in tasks(report["records"]):
        right = "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1))
        lines += [f"**{task.capitalize()}**", "", "| " + " | ".join(COLUMNS) + " |", f"|{right}|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in rows(report["records"], task)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def versions() -> dict[str, str]:
    """What was compared, where and when."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"date": datetime.date.today().isoformat(), "processor": _processor()}
    for package in ("jax", "jaxlib", "torch", "vector-quantize-pytorch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
