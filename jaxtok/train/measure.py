"""Stages that train nothing: their evaluator measures and draws, and that is all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from jaxtok.data.pipeline import Pipeline
from jaxtok.evaluate.protocol import Result
from jaxtok.train.run import Run
from jaxtok.train.stage import Stage, TrainedStage, Variables, stage_key
from jaxtok.train.writers import default_writer


def measure(
    stage: Stage,
    run: Run,
    frozen: Mapping[str, Variables],
    watch: Callable[[str, int, Sequence[Result]], None] | None = None,
) -> list[Result]:
    """Measures and draws a stage without an update, and writes what was found as of step 0.

    Args:
      stage: has an evaluator.
      run: where.
      frozen: variables of the stages and networks that it reads, by name.
      watch: called with stage, step and results.

    Raises:
      ValueError: it has no evaluator, so it does nothing.
    """
    if stage.evaluator is None:
        raise ValueError(f"stage {stage.name!r} has neither an update nor an evaluator, so it does nothing")
    reads = {name: frozen[name] for name in (*stage.frozen, *stage.networks)}
    batches = lambda: Pipeline(stage.data, "eval").evaluation_batches()
    trained = TrainedStage({}, reads, batches, jax.random.fold_in(stage_key(run.seed, stage.name), 0), False)
    writer = default_writer(
        Path(run.workdir),
        stage.name,
        total_steps=0,
        examples_per_step=stage.data.batch_size,
        step=0,
        evaluates=True,
        wandb_project=run.wandb_project,
    )
    try:
        results = stage.evaluator.evaluate(trained)
        if results:
            writer.scalars(0, {f"eval/{result.name}": result.value for result in results})
        for name, figure in stage.evaluator.figures(trained).items():
            writer.image(0, name, figure)
    finally:
        writer.close()
    if watch is not None:
        watch(stage.name, 0, results)
    return results
