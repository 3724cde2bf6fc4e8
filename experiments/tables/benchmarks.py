"""Tables of what the benchmarks measured, from the JSON files beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks import plans as plans_of_systems
from experiments.benchmarks import quantizers_tables
from experiments.tables.markdown import markdown_table


def plans(root: Path, folder: Path) -> str:
    """Published stages on slices that hold them."""
    del folder
    return plans_of_systems.table(plans_of_systems.ordered(_read(root, "plans")))


def quantizers(root: Path, folder: Path) -> str:
    """Speed and memory of quantizers, with the method and the date."""
    del folder
    return quantizers_tables.markdown(_read(root, "quantizers")).rstrip()


def quantizers_keep_memory(root: Path, folder: Path) -> str:
    """Look-up where freed memory stays with the process."""
    del folder
    rows = [
        (
            *(f"{record['case'][part]:,}" for part in ("codes", "width", "tokens")),
            f"{record['milliseconds']['jaxtok']:.0f}",
            *(_range(record["jaxtok_times_as_fast_as"]["wall"][other], 1) for other in ("vqp", "torch")),
        )
        for record in _read(root, "quantizers_keep_memory")["records"]
    ]
    return markdown_table(("K", "D", "N", "jaxtok ms", "x vqp", "x torch"), rows)


def sampling(root: Path, folder: Path) -> str:
    """Images a second of the kinds of prior, beside PyTorch and beside LlamaGen's."""
    del folder
    report = _read(root, "sampling")
    names = (
        "times_as_fast_as_torch",
        "times_as_fast_as_torch_as_released",
        "times_as_fast_as_llamagen/jaxtok",
    )
    rows = [
        (
            f"`{prior}`",
            f"{facts['parameters'] / 1e6:.1f} M",
            f"{facts['tokens']:,}",
            *(_range(report[name].get(prior, {}).get("wall"), 2) for name in names),
        )
        for prior, facts in report["compared"].items()
    ]
    header = ("prior", "parameters", "tokens", "x PyTorch", "x PyTorch as released", "x `llamagen` in jaxtok")
    return markdown_table(header, rows)


def pretokenised(root: Path, folder: Path) -> str:
    """Steps of priors on token files against steps on images."""
    del folder
    report = _read(root, "pretokenised")
    rows = [
        (name, _range(prior["times_as_fast"], 2), f"{prior['epochs_until_encoding_is_paid']:.2f}")
        for name, prior in report["priors"].items()
    ]
    header = ("prior", "step on tokens, times as fast as on images", "epochs until the encoding is paid for")
    speed, size = report["encoded_images_per_second"], report["bytes_per_image"]
    return f"{speed:,.0f} images/s are encoded, {size} bytes each.\n\n{markdown_table(header, rows)}"


def data_loop(root: Path, folder: Path) -> str:
    """The loop with real data against the loop with one batch over and over."""
    del folder
    rows = [
        (workers, _range(found["real_over_constant"], 2), f"{found['pipeline_images_per_second']:,.0f}")
        for workers, found in _read(root, "data_loop")["workers"].items()
    ]
    header = ("worker processes", "time of the loop over that with one batch", "pipeline alone, images/s")
    return markdown_table(header, rows)


def soak(root: Path, folder: Path) -> str:
    """Lives of a run that is killed again and again."""
    del folder
    rows = [
        (
            f"{life['first_step']:,} to {life['last_step']:,}",
            f"{life['saved_before']:,}",
            f"{life['seconds']:.0f}",
            *(
                f"{life[name]:{form}}" if name in life else "-"
                for name, form in (
                    ("cpu_seconds_per_step", ".3f"),
                    ("megabytes", ".0f"),
                    ("memory_growth", "+.1%"),
                )
            ),
        )
        for life in _read(root, "soak")["lives"]
    ]
    header = ("steps", "checkpoint before", "seconds", "processor s per step", "MB", "growth of memory")
    return markdown_table(header, rows)


def _read(root: Path, name: str) -> Any:
    return json.loads((root / "experiments" / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def _range(ratio: Mapping[str, float] | None, digits: int) -> str:
    """Median (lowest to highest)."""
    if ratio is None:
        return ""
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"
