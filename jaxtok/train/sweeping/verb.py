"""The verb `sweep`."""

import csv
import dataclasses
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from jaxtok.evaluate.protocol import Result
from jaxtok.inspect.sweeps import importance_figure, parallel_coordinates
from jaxtok.train.claims import with_steps
from jaxtok.train.config import to_json
from jaxtok.train.diagnostics import NonFiniteError
from jaxtok.train.experiment import Experiment, train, write_json
from jaxtok.train.run import Run
from jaxtok.train.sweeping.space import (
    Choice,
    Space,
    annotated_space,
    configured,
    described,
    fit_space,
    listed,
    parse_space,
)
from jaxtok.train.sweeping.study import (
    ERROR,
    FOLDER,
    Direction,
    Failed,
    PrunerName,
    SamplerName,
    Worker,
    counted_trials,
    draw,
    open_study,
)

_ROWS = 10  # of the printed table


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Searches hyper-parameters. Start the same command as often as there are machines: all work on one
    study. A process that is killed loses nothing; another one, or the same command again, continues its
    trial from the last checkpoint.

    Writes `trials.csv`, figures and `best.json`, which `train --config` takes.

    Attributes:
      workdir: where the study, its trials and the tables go.
      metric: what counts, "stage/result" as in `results.json`; only its stage is trained, with those that it
        reads.
      direction: whether more is better.
      space: what to vary: "path=low:high", "path=low:high:log" or "path=a,b,c"; default what the experiment
        names.
      trials: how many, by all processes together; a grid has its own number.
      sampler: what draws the values.
      pruner: what ends trials that look bad at an evaluation (--evaluate-every).
      evaluate_every: steps between evaluations; 0 for the end only.
      steps: replaces the steps of every stage; 0 leaves them.
      seed: of the drawing and of every training.
      storage: database address such as postgresql://... for many machines without a shared file system;
        default a journal in the work directory.
      study: name in the storage.
      patience: seconds without a sign of life after which another machine's trial counts as dead.
      keep_checkpoints: keep those of finished trials, and not of the best one alone.
    """

    workdir: str = ""
    metric: str = ""
    direction: Direction = "maximize"
    space: tuple[str, ...] = ()
    trials: int = 20
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "none"
    evaluate_every: int = 0
    steps: int = 0
    seed: int = 0
    storage: str = ""
    study: str = "sweep"
    patience: float = 600.0
    keep_checkpoints: bool = False

    def __post_init__(self):
        for name, least in (("trials", 1), ("evaluate_every", 0), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least {least}.")
        if self.patience <= 0:
            raise ValueError(f"patience is {self.patience}; it has to be positive.")


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


def sweep_verb(experiment: Experiment, config: Any, options: Sweep) -> Outcome:
    """Works on a study until it is complete, then writes, prints and returns what came out.

    Raises:
      ValueError: no metric, nothing to vary, or a study that was begun with other settings.
    """
    if "/" not in options.metric:
        names = [stage.name for stage in experiment.stages(config)]
        raise ValueError(
            f"metric={options.metric!r}: name a stage and one of its results, such as "
            f"--metric {names[0]}/..., as `results.json` of a run has them; stages are {names}"
        )
    if options.pruner != "none" and not options.evaluate_every:
        raise ValueError(f"pruner={options.pruner!r} needs evaluations on the way: give --evaluate-every")
    if options.steps:
        config = with_steps(config, options.steps)
    space = parse_space(options.space) or dict(experiment.space) or annotated_space(config)
    if not space:
        raise ValueError("nothing to vary: this experiment names no space; give --space path=low:high ...")
    space = fit_space(space, config)
    trials = options.trials
    if options.sampler == "grid":
        trials = math.prod(len(values) for values in listed(space).values())
    workdir = Path(options.workdir)
    about = {
        "experiment": experiment.name,
        "config": to_json(config),
        "metric": options.metric,
        "space": list(described(space)),
        "sampler": options.sampler,
        "seed": options.seed,
        "evaluate_every": options.evaluate_every,
    }
    storage = options.storage or str(workdir / "study.journal")
    study = open_study(storage, options.study, options.direction, about, options.pruner)
    print(
        "\n".join(
            (f"{trials} trials of {options.metric}, {options.direction}; varied are", *described(space))
        )
    )
    start = time.monotonic()
    worker = Worker(
        study,
        space,
        options.sampler,
        trials,
        options.seed,
        options.patience,
        lambda line: print(line, flush=True),
    )
    worker.work(lambda trial: run_trial(trial, experiment, config, space, options))
    outcome = write_outcome(study, experiment, config, space, options)
    print(f"{time.monotonic() - start:.0f} s; trials.csv, best.json and figures are in {workdir}")
    return outcome


def run_trial(
    trial: optuna.Trial, experiment: Experiment, config: Any, space: Space, options: Sweep
) -> float:
    """Trains what a trial drew, or continues it; its metric.

    Raises:
      Failed: the configuration cannot be, training diverged, or the metric is not a number.
      ValueError: there is no such metric.
      optuna.TrialPruned: the pruner gave it up.
    """
    drawn = draw(trial, space)
    stage = options.metric.partition("/")[0]
    workdir = Path(options.workdir) / "trials" / trial.user_attrs[FOLDER]
    try:
        own = configured(config, space, drawn)
        last = next((s.steps for s in experiment.stages(own) if s.name == stage), None)
    except ValueError as error:
        raise Failed(str(error)) from error
    if last is None:
        raise ValueError(f"no stage {stage!r}; there are {[s.name for s in experiment.stages(own)]}")

    def watch(name: str, step: int, results: Sequence[Result]) -> None:
        if name != stage:
            return
        value = metric_of(options.metric, {name: results})
        if math.isfinite(value):
            trial.report(value, step)
        if step < last and trial.should_prune():
            raise optuna.TrialPruned(f"at step {step} of {last}")

    run = Run(
        workdir=str(workdir),
        seed=options.seed,
        keep=1,
        log_every=max(last // 4, 1),
        evaluate_every=options.evaluate_every,
    )
    try:
        results = train(experiment, own, run, only=(stage,), watch=watch)
    except NonFiniteError as error:
        raise Failed(str(error)) from error
    value = metric_of(options.metric, results)
    if not math.isfinite(value):
        raise Failed(f"{options.metric} is {value}")
    return value


def metric_of(metric: str, results: Any) -> float:
    """The value of "stage/result".

    Raises:
      ValueError: there is none of this name; those that there are are listed.
    """
    stage = metric.partition("/")[0]
    found = {f"{stage}/{result.name}": result.value for result in results.get(stage, ())}
    if metric not in found:
        raise ValueError(f"no metric {metric!r}; there are {sorted(found)}")
    return found[metric]


def write_outcome(
    study: optuna.Study, experiment: Experiment, config: Any, space: Space, options: Sweep
) -> Outcome:
    """`trials.csv`, `best.json`, figures, and a table on the screen."""
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
    table = Table("trial", options.metric, *space, title="the best trials", title_justify="left")
    for value, trial in finished[:_ROWS]:
        table.add_row(str(trial.number), _text(value), *(_text(trial.params[path]) for path in space))
    Console(width=None if Console().is_terminal else 110).print(table)
    return Outcome(options.metric, rows, log, shares, found)


def _write_table(path: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    partial = path.with_suffix(".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "value", *space, "seconds", "folder", "error"])
        for trial in trials:
            seconds = "" if trial.duration is None else round(trial.duration.total_seconds(), 1)
            drawn = [trial.params.get(path, "") for path in space]
            value = "" if trial.value is None else trial.value
            folder, error = (trial.user_attrs.get(name, "") for name in (FOLDER, ERROR))
            writer.writerow([trial.number, trial.state.name.lower(), value, *drawn, seconds, folder, error])
    partial.replace(path)


def _remove_checkpoints(workdir: Path, trials: Sequence[FrozenTrial], best: FrozenTrial) -> None:
    for trial in trials:
        folder = trial.user_attrs.get(FOLDER)
        if folder and trial.state.is_finished() and folder != best.user_attrs[FOLDER]:
            shutil.rmtree(workdir / "trials" / folder / "checkpoints", ignore_errors=True)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
