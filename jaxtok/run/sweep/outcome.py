"""What a sweep leaves behind: tables, figures, a page, the best configuration."""

import csv
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from jaxtok.config_files import to_json
from jaxtok.inspect.sweep_page import write_sweep_page
from jaxtok.inspect.sweeps import importance_figure, parallel_coordinates
from jaxtok.run.experiment import Experiment, write_json
from jaxtok.run.sweep.options import Sweep
from jaxtok.run.sweep.space import Choice, Space, configured
from jaxtok.run.sweep.study import ERROR, FOLDER, counted_trials

_ROWS = 10  # of the printed table
_FIGURES = {
    "parallel": "every trial as a line through what was drawn, to its result",
    "importance": "share of every hyper-parameter in the variance of the results",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Attributes:
      metric: what counted.
      trials: (what was drawn, result) of the finished trials, the best first, for `parallel_coordinates`.
      log: what was drawn logarithmically.
      shares: of every field in the variance of the results, for `importance_figure`; empty where there are
        too few trials to tell.
      config: the best configuration.
    """

    metric: str
    trials: Sequence[tuple[Mapping[str, Any], float]]
    log: frozenset[str]
    shares: Mapping[str, float]
    config: Any


def write_outcome(
    study: optuna.Study, experiment: Experiment, config: Any, space: Space, options: Sweep
) -> Outcome:
    """`trials.csv`, `best.json`, figures, `sweep.html`, and a table on the screen."""
    workdir = Path(options.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    trials = counted_trials(study.get_trials(deepcopy=False))
    complete = [
        (float(trial.value), trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None
    ]
    down = options.direction == "maximize"
    finished = sorted(complete, key=lambda pair: (-pair[0] if down else pair[0], pair[1].number))
    _write_table(workdir / "trials.csv", trials, space)
    if not finished:
        raise ValueError(f"no trial gave {options.metric}; the reasons are in {workdir / 'trials.csv'}")
    value, best = finished[0]
    found = configured(config, space, best.params)
    write_json(
        workdir / "best.json",
        {
            "experiment": experiment.name,
            "config": to_json(found),
            "seed": options.seed,
            "metric": options.metric,
            "value": value,
            "trial": best.number,
            "folder": f"trials/{best.user_attrs[FOLDER]}",
        },
    )
    if not options.keep_checkpoints:
        _remove_checkpoints(workdir, trials, best)
    rows = [(dict(trial.params), value) for value, trial in finished]
    log = frozenset(path for path, what in space.items() if not isinstance(what, Choice) and what.log)
    figures = {"parallel": parallel_coordinates(rows, options.metric, log)}
    shares: Mapping[str, float] = {}
    if len(finished) > len(space) and len({value for value, _ in finished}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        if shares:
            figures["importance"] = importance_figure(shares, options.metric)
    for name, figure in figures.items():
        figure.savefig(workdir / f"{name}.png", dpi=150)
    ordered = [trial for _, trial in finished]
    ordered += [trial for trial in trials if trial.state != TrialState.COMPLETE]
    write_sweep_page(
        workdir / "sweep.html",
        f"{experiment.name}: {options.direction} {options.metric}",
        [_row(trial, space) for trial in ordered],
        {_FIGURES[name]: (workdir / f"{name}.png").read_bytes() for name in figures},
    )
    table = Table("trial", options.metric, *space, title="the best trials", title_justify="left")
    for value, trial in finished[:_ROWS]:
        table.add_row(str(trial.number), _text(value), *(_text(trial.params[path]) for path in space))
    Console(width=None if Console().is_terminal else 110).print(table)
    return Outcome(options.metric, rows, log, shares, found)


def _row(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """A trial for a table: number, state, value, what was drawn, seconds, folder, error."""
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": "" if trial.value is None else trial.value,
        **{path: trial.params.get(path, "") for path in space},
        "seconds": "" if trial.duration is None else round(trial.duration.total_seconds(), 1),
        "folder": trial.user_attrs.get(FOLDER, ""),
        "error": trial.user_attrs.get(ERROR, ""),
    }


def _write_table(path: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    partial = path.with_suffix(".partial")
    rows = [_row(trial, space) for trial in trials]
    columns = ["trial", "state", "value", *space, "seconds", "folder", "error"]
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _remove_checkpoints(workdir: Path, trials: Sequence[FrozenTrial], best: FrozenTrial) -> None:
    for trial in trials:
        folder = trial.user_attrs.get(FOLDER)
        if folder and trial.state.is_finished() and folder != best.user_attrs[FOLDER]:
            shutil.rmtree(workdir / "trials" / folder / "checkpoints", ignore_errors=True)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
