"""Stages trained one after the other without an experiment around them: for notebooks and scripts."""

import contextlib
import io
from collections.abc import Callable, Iterable
from typing import Any

from jaxtok.train.loop import fit
from jaxtok.train.run import Run
from jaxtok.train.stage import Stage, inference_variables


def fit_stages(
    stages: Iterable[Stage],
    run: Run,
    on_progress: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[str, Any]:
    """Trains stages in order, each with the variables of those before it as `frozen`.

    What a stage would print on its way is dropped; metrics are in `metrics.jsonl` of the work directory, for
    `jaxtok.inspect.training_curves`. Started again with the same work directory it continues.

    Args:
      stages: in order.
      run: where and how.
      on_progress: called with a line per stage.

    Returns:
      The variables of every stage to use it with, by its name.

    Raises:
      ValueError: anything that `jaxtok.train.loop.fit` refuses.
    """
    variables: dict[str, Any] = {}
    for stage in stages:
        networks = {name: load() for name, load in stage.networks.items()}
        with contextlib.redirect_stdout(io.StringIO()):
            state, _ = fit(stage, run, {**variables, **networks})
        variables[stage.name] = inference_variables(state)
        on_progress(f"{stage.name}: {int(state['step'])} steps done")
    return variables
