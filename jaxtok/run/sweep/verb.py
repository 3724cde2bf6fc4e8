"""The verb `sweep`."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from jaxtok.config_files import to_json
from jaxtok.evaluate.protocol import Result
from jaxtok.run.claims import with_steps
from jaxtok.run.experiment import Experiment, train
from jaxtok.run.sweep.options import Sweep
from jaxtok.run.sweep.outcome import Outcome, write_outcome
from jaxtok.run.sweep.space import (
    Space,
    annotated_space,
    configured,
    described,
    fit_space,
    listed,
    parse_space,
)
from jaxtok.run.sweep.study import (
    FOLDER,
    Failed,
    Worker,
    draw,
    open_study,
)
from jaxtok.train.diagnostics import NonFiniteError
from jaxtok.train.run import Run


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
