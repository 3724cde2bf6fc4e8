"""Training curves from `metrics.jsonl`."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxtok.inspect.style import COLOURS, INK, LABEL_SIZE, clean, new_figure

_COLUMNS = 3
_MOST_PANELS = 24


def read_metrics(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads a metrics file: one JSON object per line with a "step", any numbers, and perhaps a "stage".

    Stages count their own steps and share names such as `loss/total`, so a stage becomes part of the name:
    `tokenizer/loss/total`.

    A run that was killed and resumed writes some steps twice: the later line counts. A last line cut off by
    the kill is ignored. Entries that are not numbers are skipped.

    Args:
      path: the file, or the folder that holds `metrics.jsonl`.

    Returns:
      name -> (steps int64 [S], values float64 [S]), by rising step.

    Raises:
      ValueError: a line in the middle is not a JSON object with a "step".
    """
    file = Path(path)
    file = file / "metrics.jsonl" if file.is_dir() else file
    lines = file.read_text(encoding="utf-8").splitlines()
    series: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step = int(np.int64(record["step"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f'{file}, line {number}: expected a JSON object with a "step", found {line[:80]!r}'
            ) from error
        stage = f"{record['stage']}/" if "stage" in record else ""
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                series.setdefault(stage + name, {})[step] = float(value)
    ordered = {name: sorted(values.items()) for name, values in series.items()}
    return {
        name: (
            np.array([step for step, _ in pairs], np.int64),
            np.array([value for _, value in pairs], np.float64),
        )
        for name, pairs in ordered.items()
    }


def training_curves(
    runs: str | os.PathLike | Mapping[str, str | os.PathLike],
    names: Sequence[str] = (),
    *,
    smooth: int | float = 0.02,
    title: str = "",
) -> Figure:
    """One small panel per metric; several runs are overlaid.

    Raw values are drawn faintly, a running mean on top. Positive values that span more than a factor of 30
    get a logarithmic axis.

    Args:
      runs: a metrics file or run folder, or several under their names (at most seven).
      names: the metrics to draw, in this order; none draws all, at most 24.
      smooth: width of the running mean as a fraction of the curve's length; 0 draws raw values only.
      title: one line above the panels.

    Raises:
      ValueError: a name that no run has (the message lists those there are), nothing to draw, or too many
        runs.
    """
    paths = runs if isinstance(runs, Mapping) else {"": runs}
    if len(paths) > len(COLOURS):
        raise ValueError(f"{len(paths)} runs in one figure cannot be told apart: draw at most {len(COLOURS)}")
    loaded = {label: read_metrics(path) for label, path in paths.items()}
    known = list(dict.fromkeys(name for metrics in loaded.values() for name in metrics))
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        raise ValueError(f"metrics {unknown} are in no run; there are: {', '.join(known) or 'none at all'}")
    chosen = list(names) or known[:_MOST_PANELS]

    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(3.7 * columns, 2.5 * rows + (0.4 if title or len(paths) > 1 else 0))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, chosen):
        drawn = []
        for (label, metrics), colour in zip(loaded.items(), COLOURS):
            if name not in metrics:
                continue
            steps, values = metrics[name]
            width = max(1, round(smooth * len(values)))
            raw = {"alpha": 0.25, "linewidth": 0.8} if width > 1 else {"linewidth": 1.4, "label": label}
            marker = "o" if len(values) <= 20 else ""
            axes.plot(steps, values, color=colour, marker=marker, markersize=3, **raw)
            if width > 1:
                axes.plot(steps, running_mean(values, width), color=colour, linewidth=1.4, label=label)
            drawn.append(values)
        clean(axes, name)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        if is_logarithmic(np.concatenate(drawn)):
            axes.set_yscale("log")
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(chosen) - columns) : len(chosen)]:
        axes.set_xlabel("step", fontsize=LABEL_SIZE, color=INK)
    if title:
        figure.suptitle(title, color=INK)
    if len(paths) > 1:
        handles, labels = _legend_entries(panels)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=LABEL_SIZE
        )
    return figure


def is_logarithmic(values: np.ndarray) -> bool:
    """Whether values are all positive and span a factor above 30, so that they need a logarithmic axis."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() / finite.min() > 30)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over `width` points, over fewer at the ends; a value that is not finite leaves a hole."""
    half = width // 2
    padded = np.concatenate([np.full(half, math.nan), values, np.full(half, math.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    present = np.isfinite(windows)
    sums = np.where(present, windows, 0).sum(axis=1)
    mean = sums / np.maximum(present.sum(axis=1), 1)
    return np.where(np.isfinite(values), mean, math.nan)


def _legend_entries(panels: np.ndarray) -> tuple[list, list[str]]:
    """One handle per run, whichever panel it first appears in."""
    found = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
