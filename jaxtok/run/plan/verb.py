"""The verb `plan`."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxtok.config_files import to_json
from jaxtok.run.experiment import Experiment, write_json
from jaxtok.run.plan.devices import Topology, open_topology
from jaxtok.run.plan.report import print_plan, stage_json, write_plan
from jaxtok.run.plan.search import flags, print_search, search, with_remat
from jaxtok.run.plan.stages import StagePlan, for_accelerators, plan_sample, plan_train
from jaxtok.train.sharding import AXES, MeshShape, make_mesh
from jaxtok.train.stage import Stage


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compiles every stage ahead of time for devices that are not attached, prints what it takes of them, and
    writes `plan.json`. Allocates nothing and needs no data.

    Attributes:
      topology: a TPU slice such as v5e:16x16, v5p:2x2x2 or v6e:8x8, compiled by libtpu; or gpu:8 (h100:8,
        h200:8, mi300x:8), compiled for the CPU as a guide.
      mesh: how its chips are arranged.
      only: stages to plan; all by default.
      tokens: plan the priors as trained on token files (`train --tokens`), where no image is encoded.
      verb: plan the training, or the samplers of the priors.
      full: compile with all the effort of a run, which takes several times as long: fewer bytes go through
        main memory, and the total differs a little.
      search: try meshes, remat policies and micro-batches for each stage, and say what is fastest.
      trials: programs that a search compiles per stage, at most.
      out: file for the plan.
    """

    topology: str = "v5e:4x4"
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    only: tuple[str, ...] = ()
    tokens: bool = False
    verb: Literal["train", "sample"] = "train"
    full: bool = False
    search: bool = False
    trials: int = 8
    out: str = "plan.json"

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}; a search needs at least 1.")
        if self.search and self.verb != "train":
            raise ValueError("--search tries ways to train; leave out --verb, or --search")
        if self.tokens and (self.search or self.verb != "train"):
            raise ValueError("--tokens plans training as given; leave out --search and --verb, or --tokens")


def plan_verb(experiment: Experiment, config: Any, options: Plan, preset: str) -> None:
    """Plans, prints and writes."""
    topology = dataclasses.replace(open_topology(options.topology), full=options.full)
    config, notes = for_accelerators(config)
    if topology.chip.tpu and not options.full:
        notes.append(
            "compiled with less effort than a run, whose memory was 2 % smaller to 16 % larger where both "
            "were tried, and which moves fewer bytes; --full for all of it"
        )
    if options.search:
        search_verb(experiment, config, options, topology)
        return
    plans = []
    for plan in make_plans(experiment, config, options, topology):
        print(f"{plan.stage}: compiled in {plan.program.seconds:.0f} s", file=sys.stderr, flush=True)
        plans.append(plan)
    if not plans:
        lacks = "has a sampler" if options.verb == "sample" else "trains anything"
        raise ValueError(f"no stage of {experiment.name} {lacks} among {list(options.only) or 'all'}")
    sizes = dict(zip(AXES, options.mesh.sizes(len(topology.devices))))
    shown = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    print_plan(plans, topology, shown, notes)
    header = {
        "experiment": experiment.name,
        "preset": preset,
        "verb": options.verb,
        "mesh": sizes,
        "notes": notes,
        "config": to_json(config),
    }
    write_plan(Path(options.out), header, plans, topology)
    print(f"everything is in {options.out}")


def search_verb(experiment: Experiment, config: Any, options: Plan, topology: Topology) -> None:
    """Searches for every chosen stage that has parameters to split."""

    def stages_of(own: Any) -> list[Stage]:
        return list(experiment.stages(own))

    found = {}
    for stage in chosen(stages_of(config), options.only):
        if not stage.rules and not options.only:
            continue
        trials = search(stages_of, config, stage.name, options.mesh, topology, options.trials)
        best = min(trials, key=lambda trial: trial.seconds)
        print_search(stage.name, trials, flags(best.choice, stage, config))
        found[stage.name] = [
            {**dataclasses.asdict(trial.choice), "plan": stage_json(trial.plan)} for trial in trials
        ]
    write_json(Path(options.out), {"experiment": experiment.name, "search": found})
    print(f"everything is in {options.out}")


def chosen(stages: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    """The named stages; all without names.

    Raises:
      ValueError: an unknown name.
    """
    names = [stage.name for stage in stages]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"no stages {unknown}; this experiment has {names}")
    return [stage for stage in stages if not only or stage.name in only]


def make_plans(experiment: Experiment, config: Any, options: Plan, topology: Topology) -> Iterator[StagePlan]:
    """The plans of the chosen stages, one after the other.

    Raises:
      ValueError: an unknown stage, or a mesh that does not fit.
    """
    stages = list(experiment.stages(config))
    chosen(stages, options.only)
    mesh = make_mesh(options.mesh, topology.devices)
    if options.verb == "sample":
        return plan_sample(stages, options.only, mesh, topology)
    plain = with_remat(config, "none")
    others = stages if plain == config else list(experiment.stages(plain))
    return plan_train(stages, others, options.only, mesh, topology, options.tokens)
