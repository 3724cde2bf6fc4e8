"""An experiment: presets, stages and claims, and the run of all its stages."""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtok.config_files import differences, from_json, to_json
from jaxtok.data.token_shards import read_manifest
from jaxtok.evaluate.protocol import Result, write_results
from jaxtok.json_files import read_object
from jaxtok.run.claims import Claim
from jaxtok.run.initialise import initialiser
from jaxtok.run.lock import workdir_lock
from jaxtok.run.sweep.space import Choice, Range
from jaxtok.run.token_files import token_data
from jaxtok.systems.registry import system_name
from jaxtok.train.loop import Watch, fit
from jaxtok.train.measure import measure
from jaxtok.train.run import Run
from jaxtok.train.stage import Stage, inference_variables
from jaxtok.train.start_checks import check_stages, data_summary

log = logging.getLogger(__name__)

_CHECKED: set[Any] = set()  # configurations of this process whose stages fit their data


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a file in `experiments/` says.

    Attributes:
      name: file name without ending; also the name of the system in `jaxtok.systems`.
      doc: docstring of the file.
      presets: configurations by name; the first is the default.
      stages: `config -> stages in order`.
      claims: falsifiable comparisons.
      space: what `sweep` varies by default, by dotted path in the configuration.
    """

    name: str
    doc: str
    presets: Mapping[str, Any]
    stages: Callable[[Any], Iterable[Stage]]
    claims: Sequence[Claim] = ()
    space: Mapping[str, Range | Choice] = dataclasses.field(default_factory=dict)


def train(
    experiment: Experiment,
    config: Any,
    run: Run,
    *,
    only: Sequence[str] = (),
    watch: Watch | None = None,
) -> dict[str, list[Result]]:
    """Runs the stages of an experiment in order; each continues from its own checkpoint.

    Writes `config.json`, `metrics.jsonl`, figures, checkpoints, `results.json` and `summary.json` into
    `run.workdir`.

    Args:
      experiment: what.
      config: one of its configurations.
      run: where and how.
      only: names of the stages to run (with the stages that they read); default all.
      watch: called with stage, step and results after every evaluation; what it raises ends the run.

    Returns:
      Results of the evaluation of each stage.

    Raises:
      ValueError: the work directory belongs to another configuration, or anything that `fit` refuses.
      RuntimeError: another run uses the work directory.
    """
    workdir = Path(run.workdir)
    stages = select_stages(list(experiment.stages(config)), only)
    if run.tokens:
        read_manifest(Path(run.tokens).expanduser())  # before the tokenizer is trained for hours
        if not any(stage.codes for stage in stages):
            raise ValueError(
                f"--tokens {run.tokens}: none of the stages {[stage.name for stage in stages]} learns codes, "
                "so nothing would read them; leave it out, or train a prior"
            )
    checked = (experiment.name, config, tuple(only))
    # Where there is a configuration, its run was checked, or it is another one, which is refused below.
    if not (workdir / "config.json").exists() and checked not in _CHECKED:
        check_stages(config.model.check_data, stages)
        _CHECKED.add(checked)  # a sweep trains the same in many folders
    if jax.process_index() == 0:
        if table := parameter_table(config.model):
            print(table, flush=True)
        if not run.tokens:
            for data in dict.fromkeys(stage.data for stage in stages):
                print(f"{data.describe()}: {data_summary(data)}", flush=True)
    with workdir_lock(workdir):
        claim_workdir(workdir, experiment, config, run)
        variables: dict[str, Any] = {}
        results: dict[str, list[Result]] = {}
        summary: dict[str, Any] = {}
        for stage in stages:
            start = time.monotonic()
            networks = {name: load() for name, load in stage.networks.items()}
            frozen = {**variables, **networks}
            data = None
            if run.tokens and stage.codes is not None:
                data = token_data(run.tokens, stage.data, stage.codes, frozen)
            if stage.update is None:
                results[stage.name] = measure(stage, run, frozen, watch)
                summary[stage.name] = _summary(results[stage.name], start)
                continue
            state, results[stage.name] = fit(
                stage,
                run,
                frozen,
                initialise=initialiser(run.init_from, experiment.name, stage.name) if run.init_from else None,
                metadata={"config": to_json(config)},
                watch=watch,
                data=data,
            )
            variables[stage.name] = inference_variables(state)
            summary[stage.name] = {"steps": int(state["step"])} | _summary(results[stage.name], start)
        if jax.process_index() == 0:
            finite = {
                stage: {k: v if math.isfinite(v) else str(v) for k, v in row.items()}
                for stage, row in summary.items()
            }
            write_json(workdir / "summary.json", finite)
            write_results(
                workdir / "results.json", [_prefixed(stage, r) for stage, rs in results.items() for r in rs]
            )
    return results


def select_stages(stages: list[Stage], only: Sequence[str]) -> list[Stage]:
    """The named stages and all that they read, in order; all without names.

    Raises:
      ValueError: an unknown name.
    """
    by_name = {stage.name: stage for stage in stages}
    if unknown := [name for name in only if name not in by_name]:
        raise ValueError(f"no stages {unknown}; this experiment has {list(by_name)}")
    if not only:
        return stages
    wanted, queue = set(), list(only)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += by_name[name].frozen
    return [stage for stage in stages if stage.name in wanted]


def parameter_table(model: Any) -> str:
    """Lines with the number of parameters of each component of a model, computed from shapes alone."""
    counts = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree["params"]))
        for name, tree in model.shapes().items()
    }
    width = max(map(len, counts), default=0)
    return "\n".join(f"{name.ljust(width)}  {count:>15,} parameters" for name, count in counts.items())


def claim_workdir(workdir: Path, experiment: Experiment, config: Any, run: Run) -> None:
    """Writes `config.json`, or checks that the one that is there says the same.

    Raises:
      ValueError: it belongs to another experiment, configuration or seed; the differences are listed.
    """
    identity = {"experiment": experiment.name, "config": to_json(config), "seed": run.seed}
    path = workdir / "config.json"
    if path.exists():
        stored = read_object(path, {"config": dict}, "Use another --workdir, or repair the file.")
        with contextlib.suppress(ValueError):  # fields that an older version did not have were as by default
            stored["config"] = to_json(from_json(type(config), stored.get("config")))
        lines = differences({name: stored.get(name) for name in identity}, json.loads(json.dumps(identity)))
        if lines:
            raise ValueError(
                f"{workdir} holds a run with another configuration:\n  " + "\n  ".join(lines[:20]) + "\n"
                "Use another --workdir (with --init-from to start from this one), or the same settings."
            )
        return
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    packages = ("jaxtok", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    environment = {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "devices": [
            f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
            f"{jax.process_count()} processes",
        ],
        "commit": commit_of_source(),
        "run": to_json(run),
    }
    totals = {stage.name: stage.steps for stage in experiment.stages(config)}
    system = {"system": system_name(config.model, experiment.name)}
    write_json(path, {**identity, **system, "stages": totals, **environment})


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader never meets half a file."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def _summary(results: Sequence[Result], start: float) -> dict[str, Any]:
    return {
        "seconds": round(time.monotonic() - start, 1),
        **{result.name: result.value for result in results},
    }


def _prefixed(stage: str, result: Result) -> Result:
    return Result(f"{stage}/{result.name}", result.value, result.protocol)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of_source() -> str | None:
    """Commit of the source tree that this file runs from, with "+" if it was changed; None outside of one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
