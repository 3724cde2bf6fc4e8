"""Plans stages of an experiment: the step that `jaxtok.train.loop` runs, or the sampler of an evaluator."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxtok.data.dataset import Dataset
from jaxtok.run.plan.arithmetic import jaxpr_flops
from jaxtok.run.plan.devices import Topology
from jaxtok.run.plan.program import Program, compile_program
from jaxtok.run.plan.roofline import utilisation
from jaxtok.train.sharding import BATCH_AXES, batch_sharding
from jaxtok.train.stage import Stage, abstract_batch, inference_variables, network_shapes, update_of
from jaxtok.train.step import Step, make_step, placed


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """The plan of one stage.

    Attributes:
      stage: its name.
      parameters: that it trains.
      frozen_parameters: of earlier stages and frozen networks that it reads.
      batch: examples per step over all chips.
      inputs: arrays of an example, of the largest shapes that it trains on.
      program: what the compiler says.
      model_flops: arithmetic of the model over all chips, nothing recomputed.
      ceiling: of model FLOP utilisation; None where the program does not compile.
    """

    stage: str
    parameters: int
    frozen_parameters: int
    batch: int
    inputs: str
    program: Program
    model_flops: float
    ceiling: float | None


def for_accelerators(config: Any) -> tuple[Any, list[str]]:
    """A configuration as an accelerator reads it, and what was changed.

    "auto" precision asks the machine that it runs on, which here is the one that plans.
    """
    if getattr(config, "precision", None) != "auto":
        return config, []
    changed = dataclasses.replace(config, precision="bfloat16")
    return changed, ["precision auto is bfloat16, as on accelerators"]


def plan_train(
    stages: Sequence[Stage],
    plain: Sequence[Stage],
    only: Sequence[str],
    mesh: Mesh,
    topology: Topology,
    from_codes: bool = False,
) -> Iterator[StagePlan]:
    """Plans the training of stages.

    Args:
      stages: all stages of the experiment, in order.
      plain: the same without rematerialisation, to count what the model needs.
      only: names of those to plan; none for all.
      mesh, topology: where.
      from_codes: stages that can, read token files in place of their data.
    """
    for stage, other in zip(stages, plain, strict=True):
        if stage.update is None or (only and stage.name not in only):
            continue
        check_batch(stage, mesh)
        frozen = frozen_shapes(stage, stages)
        step = make_step(stage, mesh, frozen, data=_read(stage, from_codes))
        arguments = (step.state, step.batch, step.frozen, step.key)
        program = compile_program(step.update, arguments, mesh, topology)
        needed = program.jaxpr_flops
        if other is not stage:
            needed = _written(make_step(other, mesh, frozen, data=_read(other, from_codes)), mesh)
        yield _stage_plan(stage, step.state["params"], frozen, program, needed, topology, mesh)


def plan_sample(
    stages: Sequence[Stage], only: Sequence[str], mesh: Mesh, topology: Topology
) -> Iterator[StagePlan]:
    """Plans one call of the sampler of every stage that has one, for a batch of the training's size."""
    for stage in stages:
        program_of = getattr(stage.evaluator, "program", None)
        if program_of is None or stage.update is None or (only and stage.name not in only):
            continue
        check_batch(stage, mesh)
        frozen = frozen_shapes(stage, stages)
        step = make_step(stage, mesh, frozen)
        variables = inference_variables(step.state)
        draw, shapes = program_of()
        rows = placed(shapes, jax.tree.map(lambda _: batch_sharding(mesh), shapes))
        program = compile_program(draw, (variables, step.frozen, *rows), mesh, topology)
        yield _stage_plan(stage, variables["params"], frozen, program, program.jaxpr_flops, topology, mesh)


def check_batch(stage: Stage, mesh: Mesh) -> None:
    """Refuses a batch that the chips cannot share, as a run would.

    Raises:
      ValueError: it does not divide.
    """
    batch, parts = stage.data.batch_size, math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch % parts:
        raise ValueError(
            f"data.batch_size is {batch}, which does not divide over {parts} chips on mesh axes 'data' x "
            f"'fsdp'. Use --data.batch-size {-(-batch // parts) * parts}, or fewer chips on these axes."
        )


def frozen_shapes(stage: Stage, stages: Sequence[Stage]) -> dict[str, Any]:
    """Shapes of everything that a stage reads.

    Raises:
      ValueError: a frozen network that can only be described by its weights, which are not there.
    """
    by_name = {other.name: other for other in stages}
    frozen: dict[str, Any] = {}
    for name in stage.frozen:
        earlier = by_name[name]
        key = jax.eval_shape(lambda: jax.random.key(0))
        own = frozen_shapes(earlier, stages)
        frozen[name] = inference_variables(
            jax.eval_shape(update_of(earlier).init, key, abstract_batch(earlier.data), own)
        )
    frozen |= {name: network_shapes(load) for name, load in stage.networks.items()}
    return frozen


def _written(step: Step, mesh: Mesh) -> float:
    with jax.set_mesh(mesh):
        return jaxpr_flops(step.update.trace(step.state, step.batch, step.frozen, step.key).jaxpr)


def _stage_plan(
    stage: Stage,
    params: Any,
    frozen: Mapping[str, Any],
    program: Program,
    needed: float,
    topology: Topology,
    mesh: Mesh,
) -> StagePlan:
    bounds = program.bounds
    ceiling = None if bounds is None else utilisation(needed, mesh.size, bounds, topology.chip)
    data = stage.data
    return StagePlan(
        stage.name,
        _count(params),
        _count(frozen),
        data.batch_size,
        ", ".join(_shown(name, field.shape) for name, field in data.fields().items() if field.shape),
        program,
        needed,
        ceiling,
    )


def _read(stage: Stage, from_codes: bool) -> Dataset:
    return stage.codes.files_of(stage.data) if from_codes and stage.codes else stage.data


def _shown(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} {' x '.join(map(str, shape))}"


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
