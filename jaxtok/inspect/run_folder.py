"""What the files of a run say about it, finished or not, without loading a model."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.evaluate.protocol import Result, read_results
from jaxtok.inspect.curves import read_metrics
from jaxtok.json_files import check_object, read_object

Curve = tuple[np.ndarray, np.ndarray]
_EVALUATED = "eval"  # the group under which the loop writes what an evaluation measured


@dataclasses.dataclass(frozen=True)
class FigureFile:
    """A picture that the run drew.

    Attributes:
      name: such as "reconstructions".
      step: of the stage, when it was drawn.
      path: PNG file.
    """

    name: str
    step: int
    path: Path


@dataclasses.dataclass(frozen=True)
class StageFiles:
    """One stage of a run.

    Attributes:
      name: of the stage.
      total: optimizer steps that it is to take; None where it is not known, see `read_run`.
      step: the last one in `metrics.jsonl`; 0 where the stage has not begun.
      seconds: how long it took, once the run is over.
      checkpoint: step of the newest checkpoint, or None.
      curves: metric -> (steps, values), of training.
      evaluated: metric -> (steps, values), of evaluations during training.
      results: of the evaluation, with their protocols.
      figures: by name, the newest of a name first.
      notes: remarks of the loop.
    """

    name: str
    total: int | None
    step: int
    seconds: float | None
    checkpoint: int | None
    curves: Mapping[str, Curve]
    evaluated: Mapping[str, Curve]
    results: Sequence[Result]
    figures: Sequence[FigureFile]
    notes: Sequence[str]

    @property
    def trained(self) -> bool:
        """Whether it took all of its steps."""
        return self.total is not None and max(self.step, self.checkpoint or 0) >= self.total


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """A run.

    Attributes:
      path: work directory.
      record: `config.json`: "experiment", "config", "seed", "commit", "versions" and so on.
      stages: in the order of the experiment; of older runs those that have begun.
      written: when the metrics were last written, seconds since 1970; None without any.
      problems: files that are there and cannot be read, with the reasons.
    """

    path: Path
    record: Mapping[str, Any]
    stages: Sequence[StageFiles]
    written: float | None
    problems: Sequence[str]


def read_run(workdir: str | os.PathLike) -> RunFiles:
    """Reads what there is of a run; only `config.json` must be there.

    Older runs do not say how many steps a stage is to take. There, a stage is over once the next one has
    begun, because stages come one after the other.

    Raises:
      FileNotFoundError: there is no `config.json`.
      ValueError: `config.json` is not one of a run.
    """
    path = Path(workdir)
    if not (path / "config.json").exists():
        raise FileNotFoundError(f"{path} holds no run (no config.json); give the --workdir of a training")
    needed = {"experiment": str, "config": dict}
    record = read_object(path / "config.json", needed, "Give the --workdir of a training.")

    problems: list[str] = []

    def read(name: str, how: Any, absent: Any) -> Any:
        if not (path / name).exists():
            return absent
        try:
            return how(path / name)
        except (ValueError, OSError) as error:  # a run that is going may be writing it
            problems.append(f"{name} cannot be read: {error}")
            return absent

    metrics = read("metrics.jsonl", read_metrics, {})
    notes = read("metrics.jsonl", _read_notes, {})
    results = read("results.json", read_results, [])
    summary = read("summary.json", _read_summary, {})
    totals = read("config.json", _read_totals, {})
    checkpoints = {folder.name: _newest_step(folder) for folder in _listing(path / "checkpoints")}
    begun = [name.partition("/")[0] for name in [*metrics, *summary, *(r.name for r in results)]]
    names = list(dict.fromkeys([*totals, *begun, *checkpoints]))
    figures = _figures(path / "figures", names)
    stages: list[StageFiles] = []
    for name in reversed(names):
        own = _below(name, metrics)
        curves = {key: curve for key, curve in own.items() if not key.startswith(f"{_EVALUATED}/")}
        steps = [int(taken[-1]) for taken, _ in own.values()] + [summary.get(name, {}).get("steps", 0)]
        over = name in summary or any(stage.step for stage in stages)
        stage = StageFiles(
            name=name,
            total=totals.get(name, max(steps) if over else None),
            step=max(steps),
            seconds=summary.get(name, {}).get("seconds"),
            checkpoint=checkpoints.get(name),
            curves=curves,
            evaluated=_below(_EVALUATED, own),
            results=[
                dataclasses.replace(result, name=key)
                for key, result in _below(name, {r.name: r for r in results}).items()
            ],
            figures=figures.get(name, []),
            notes=notes.get(name, []),
        )
        stages.insert(0, stage)
    file = path / "metrics.jsonl"
    return RunFiles(path, record, stages, file.stat().st_mtime if file.exists() else None, problems)


def _below(group: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """What is named `group/...`, without the group."""
    return {
        key.removeprefix(f"{group}/"): value for key, value in named.items() if key.startswith(f"{group}/")
    }


def _read_totals(path: Path) -> dict[str, int]:
    """Steps that each stage is to take."""
    remedy = "Give the --workdir of a training."
    totals = check_object(read_object(path, {}, remedy).get("stages", {}), {}, f"`stages` of {path}", remedy)
    return check_object(totals, dict.fromkeys(totals, int), f"`stages` of {path}", remedy)


def _read_summary(path: Path) -> dict[str, dict[str, Any]]:
    """What is known of each finished stage: its "steps" and "seconds"."""
    remedy = "Remove it; the run writes it again."
    stages = read_object(path, {}, remedy)
    for name, about in stages.items():
        check_object(about, {"steps": int, "seconds": (int, float)}, f"stage {name} in {path}", remedy)
        about["seconds"] = float(about["seconds"])
    return stages


def _read_notes(path: Path) -> dict[str, list[str]]:
    """Texts of the loop by stage; a text that was written again (a resumed run) counts once."""
    notes: dict[str, dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # `read_metrics` says it if this matters
        for name, value in entry.items() if isinstance(entry, dict) else ():
            if isinstance(value, str) and name != "stage":
                notes.setdefault(str(entry.get("stage", "")), {})[name] = value
    return {stage: list(texts.values()) for stage, texts in notes.items()}


def _listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _newest_step(folder: Path) -> int | None:
    steps = [int(path.name) for path in _listing(folder) if path.name.isdigit()]
    return max(steps, default=None)


def _figures(folder: Path, stages: Sequence[str]) -> dict[str, list[FigureFile]]:
    """Files `<stage>_<name>_<step>.png` by stage; the longest name of a stage that fits is the right one."""
    found: dict[str, list[FigureFile]] = {}
    for path in folder.glob("*.png") if folder.is_dir() else ():
        head, _, step = path.stem.rpartition("_")
        fitting = [stage for stage in stages if head.startswith(f"{stage}_")]
        if fitting and step.isdigit():
            stage = max(fitting, key=len)
            file = FigureFile(head.removeprefix(f"{stage}_"), int(step), path)
            found.setdefault(stage, []).append(file)
    return {stage: sorted(files, key=lambda f: (f.name, -f.step)) for stage, files in found.items()}
