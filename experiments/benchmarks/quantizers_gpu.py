"""Look-up kernels on a GPU: Pallas against XLA against PyTorch, eager and through `torch.compile`.

All in float32 without TensorFloat-32, which would make neighbouring codes equal. The roofline is the time
that the arithmetic (2 N K D operations at the GPU's float32 rate outside of its tensor cores) or the traffic
(features, codebook and codes once each) takes at least, whichever is longer.
"""

import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from experiments.benchmarks.quantizers_cases import Case, Side, cases, disagreements, inputs
from experiments.benchmarks.timing import take_turns, times_as_fast

COLUMNS = ("K", "D", "N", "pallas ms", "of roofline", "x XLA", "x torch.compile", "x torch")
_OTHERS = ("xla", "torch.compile", "torch")


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most, from its data sheet (SXM boards): float32 operations and bytes a second."""

    operations: float
    traffic: float


GPUS = {"h100": Gpu(67e12, 3.35e12), "h200": Gpu(67e12, 4.8e12), "a100": Gpu(19.5e12, 2.0e12)}


def least_seconds(case: Case, kind: str) -> float | None:
    """The roofline of a look-up; None for a GPU that is not in the table.

    Args:
      case: the look-up.
      kind: device kind, such as "NVIDIA H100 80GB HBM3".
    """
    gpu = next((gpu for name, gpu in GPUS.items() if name in kind.lower()), None)
    if gpu is None:
        return None
    moved = 4 * (case.width * (case.tokens + case.codes) + case.tokens)
    return max(2 * case.tokens * case.codes * case.width / gpu.operations, moved / gpu.traffic)


def measure(options: Any) -> Iterator[dict[str, Any]]:
    """One record per codebook size and width.

    Raises:
      ValueError: the sides do not compute the same, or there is no GPU.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of the memory
    import jax
    import torch

    if jax.default_backend() != "gpu" or not torch.cuda.is_available():
        raise ValueError("--device gpu needs a GPU for both JAX and PyTorch; use --device cpu here")
    torch.set_float32_matmul_precision("highest")
    kind = jax.devices()[0].device_kind
    for case in cases(("vq",), ("look-up",), options.tokens, options.codes, options.widths):
        sides = _sides(case)
        mine = sides["pallas"].results()
        differences = {name: disagreements(case, mine, sides[name].results()) for name in _OTHERS}
        runs = {name: side.run for name, side in sides.items()}
        seconds = take_turns(runs, options.rounds, options.block_seconds, options.case_seconds)
        medians = {name: statistics.median(own) for name, own in seconds["wall"].items()}
        least = least_seconds(case, kind)
        milliseconds = {name: 1e3 * value for name, value in medians.items()}
        print(case, milliseconds, flush=True)
        yield {
            "case": asdict(case),
            "device": kind,
            "differences": differences,
            "milliseconds": milliseconds,
            "of_roofline": {name: least and least / value for name, value in medians.items()},
            "pallas_times_as_fast_as": times_as_fast(seconds, "pallas"),
            "seconds": seconds,
        }


def _sides(case: Case) -> dict[str, Side]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from jaxtok.kernels import nearest_code

    features, book = inputs(case)["z"].reshape(case.tokens, -1), inputs(case)["codebooks"][0]

    def jax_side(implementation):
        look_up = jax.jit(lambda z, book: nearest_code(z, book, implementation=implementation))
        arrays = jnp.asarray(features), jnp.asarray(book)

        def run(count):
            for _ in range(count):
                codes = look_up(*arrays)
            jax.block_until_ready(codes)

        return Side(lambda: {"codes": np.asarray(look_up(*arrays))[:, None]}, run)

    def torch_side(transform):
        z, codes = (torch.from_numpy(x).cuda() for x in (features, book))

        def by_hand(z, codes):
            return torch.addmm(torch.square(codes).sum(dim=1), z, codes.T, beta=-0.5).argmax(dim=1)

        look_up = transform(by_hand)

        def run(count):
            for _ in range(count):
                look_up(z, codes)
            torch.cuda.synchronize()

        return Side(lambda: {"codes": look_up(z, codes).cpu().numpy()[:, None]}, run)

    return {
        "pallas": jax_side("pallas_gpu"),
        "xla": jax_side("xla"),
        "torch.compile": torch_side(torch.compile),
        "torch": torch_side(lambda function: function),
    }


def rows(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of the records, in the order of `COLUMNS`."""
    found = []
    for record in records:
        cells = [f"{record['case'][name]:,}" for name in ("codes", "width", "tokens")]
        share = record["of_roofline"]["pallas"]
        cells += [f"{record['milliseconds']['pallas']:.3g}", f"{share:.0%}" if share else ""]
        ratios = record["pallas_times_as_fast_as"]["wall"]
        cells += ["{median:.2f} ({low:.2f}-{high:.2f})".format(**ratios[name]) for name in _OTHERS]
        found.append(tuple(cells))
    return found


def table(records: list[dict[str, Any]]) -> Table:
    """The records for a terminal."""
    shown = Table(title="Look-up on a GPU; x: times as fast as the other side, median (range)")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    for cells in rows(records):
        shown.add_row(*cells)
    return shown


def markdown(report: dict[str, Any]) -> str:
    """The records for a README, with method and date."""
    version, device = report["versions"], report["records"][0]["device"]
    lines = [
        f"Look-up of codes on {device}, measured on {version['date']}: float32, JAX {version['jax']}, "
        f"PyTorch {version['torch']}. x is the other side's time over that of the Pallas kernel, "
        "median (range).",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "|".join(["---:"] * len(COLUMNS)) + "|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows(report["records"]))]) + "\n"
