"""Tries meshes, rematerialisation policies and micro-batches, and says which that fits is fastest."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxtok.config_files import replace_at
from jaxtok.nn.transformer import Remat
from jaxtok.run.plan.devices import Topology
from jaxtok.run.plan.stages import StagePlan, plan_train
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import AXES, MeshShape, axes_of, make_mesh
from jaxtok.train.stage import Stage

_REMAT: tuple[Remat, ...] = ("none", "dots", "full")  # from nothing recomputed to everything


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to train a stage.

    Attributes:
      mesh: sizes of the mesh axes.
      remat: for every stack of the model; empty if it has none.
      micro_batches: of the stage's fit.
    """

    mesh: tuple[int, int, int]
    remat: str
    micro_batches: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """A choice and its plan."""

    choice: Choice
    plan: StagePlan

    @property
    def seconds(self) -> float:
        """Least time of a step; infinite where it does not fit."""
        bounds = self.plan.program.bounds
        return bounds.seconds if bounds is not None and self.plan.program.fits else math.inf


def search(
    stages_of: Callable[[Any], Sequence[Stage]],
    config: Any,
    name: str,
    mesh: MeshShape,
    topology: Topology,
    trials: int,
) -> list[Trial]:
    """Plans a stage with different settings, the given mesh first.

    For each mesh and policy the number of micro-batches grows until the step fits; a policy that recomputes
    is only tried where the one before needed more than one. No mesh takes more than half of the trials that
    are left, so that others are reached.

    Args:
      stages_of: `config -> stages`.
      config: the configuration to vary.
      name: which stage.
      mesh: the mesh to begin with.
      topology: where.
      trials: how many programs to compile at most.
    """
    done: list[Trial] = []
    policies = _REMAT if remat_fields(config) else ("",)
    for sizes in meshes(mesh.sizes(len(topology.devices)), name, stages_of(config)):
        share = len(done) + -(-(trials - len(done)) // 2)
        for policy in policies:
            micro = 1
            while micro is not None and len(done) < share:
                choice = Choice(sizes, policy, micro)
                done.append(Trial(choice, _plan(stages_of, config, name, choice, topology)))
                micro = _more(done[-1], topology)
            if len(done) >= share or (done[-1].plan.program.fits and done[-1].choice.micro_batches == 1):
                break
    return done


def meshes(first: tuple[int, int, int], name: str, stages: Sequence[Stage]) -> Iterator[tuple[int, int, int]]:
    """The given mesh, then powers of two per axis: few copies of the parameters first, with every `tensor`.

    `tensor` is 1 for a stage whose rules do not name it, and at most 8: it sends activations in every layer.
    """
    stage = next(stage for stage in stages if stage.name == name)
    batch, chips = stage.data.batch_size, math.prod(first)
    most = 8 if any("tensor" in axes_of(entry) for rule in stage.rules for entry in rule.spec) else 1
    powers = [2**k for k in range(chips.bit_length()) if chips % 2**k == 0]
    all_of = [
        (data, chips // (data * tensor), tensor)
        for data, tensor in itertools.product(powers, powers)
        if tensor <= most and chips % (data * tensor) == 0 and batch % (chips // tensor) == 0
    ]
    yield from dict.fromkeys((first, *all_of))


def _plan(stages_of: Any, config: Any, name: str, choice: Choice, topology: Topology) -> StagePlan:
    def prepared(policy: str) -> list[Stage]:
        own = with_remat(config, policy) if policy else config
        return [with_micro_batches(s, choice.micro_batches) if s.name == name else s for s in stages_of(own)]

    mesh = make_mesh(MeshShape(*choice.mesh), topology.devices)
    stages = prepared(choice.remat)
    plain = stages if choice.remat in ("", "none") else prepared("none")
    (plan,) = plan_train(stages, plain, (name,), mesh, topology)
    return plan


def _more(trial: Trial, topology: Topology) -> int | None:
    """How many micro-batches to try next; None if there is nothing to gain."""
    program, micro = trial.plan.program, trial.choice.micro_batches
    rows = trial.plan.batch // (trial.choice.mesh[0] * trial.choice.mesh[1])
    if program.fits or program.memory.total == 0:
        return None
    times = 2 ** max(1, math.floor(math.log2(program.memory.total / topology.chip.memory)))
    more = math.gcd(rows, micro * times)
    return more if more > micro else None


def with_micro_batches(stage: Stage, count: int) -> Stage:
    """The stage with another number of micro-batches; itself if its update has none."""
    update: Any = stage.update
    if not isinstance(getattr(update, "fit", None), TrainConfig):
        return stage
    fit = dataclasses.replace(update.fit, micro_batches=count)
    return dataclasses.replace(stage, update=dataclasses.replace(update, fit=fit))


def with_remat(config: Any, policy: str) -> Any:
    """A configuration in which every stack has this policy."""
    for path in remat_fields(config):
        config = replace_at(config, path, policy)
    return config


def remat_fields(config: Any, prefix: str = "") -> list[str]:
    """Dotted paths of the fields called `remat`."""
    found: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found += remat_fields(value, f"{prefix}{field.name}.")
        elif field.name == "remat":
            found.append(prefix + field.name)
    return found


def flags(choice: Choice, stage: Stage, config: Any) -> str:
    """What to add to the command line for this choice."""
    words = [f"--mesh.{axis} {size}" for axis, size in zip(AXES, choice.mesh)]
    if choice.remat:
        words += [f"--{path.replace('_', '-')} {choice.remat}" for path in remat_fields(config)]
    own = getattr(stage.update, "fit", None)
    fits = [field.name for field in dataclasses.fields(config) if getattr(config, field.name) == own]
    if choice.micro_batches > 1 and fits:
        words.append(f"--{fits[0]}.micro-batches {choice.micro_batches}")
    return " ".join(words)


def print_search(name: str, trials: Sequence[Trial], best: str) -> None:
    """A row per trial, and the flags of the fastest."""
    table = Table("mesh", "remat", "micro-batches", "GB", "fits", "least ms", "limited by", "compiled in, s")
    fastest = min(trials, key=lambda trial: trial.seconds)
    for trial in trials:
        program, choice = trial.plan.program, trial.choice
        bounds = program.bounds
        table.add_row(
            " x ".join(map(str, choice.mesh)),
            choice.remat or "-",
            str(choice.micro_batches),
            f"{program.memory.total / 1e9:.2f}",
            ("yes, fastest" if trial is fastest else "yes") if program.fits else "NO",
            "-" if bounds is None else f"{bounds.seconds * 1e3:.1f}",
            "-" if bounds is None else bounds.limit,
            f"{program.seconds:.0f}",
        )
    console = Console(width=None if Console().is_terminal else 110)
    console.print(f"{name}: {len(trials)} settings tried", highlight=False)
    console.print(table)
    if fastest.seconds < math.inf:
        console.print(f"{name}, the fastest of those that fit: {best}", highlight=False, soft_wrap=True)
    else:
        console.print(f"{name}: none fits; use more chips, a smaller batch or more --trials", highlight=False)
