"""Starting a stage from weights that exist: another run, a pretrained folder, or official weights."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok import convert
from jaxtok.param_trees import partial_load
from jaxtok.run.pretrained import load
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import State, collections_of

log = logging.getLogger(__name__)


def initialiser(source: str, system: str, stage: str) -> Callable[[State], State]:
    """A function that puts existing weights into a fresh state.

    Parameters (and collections) of equal path and shape are taken; what was taken, what differs in shape, and
    what is missing or unused is printed. A source without this stage leaves it fresh, and says so.

    Args:
      source: a work directory, a folder of `save_pretrained`, or a file with official weights.
      system: name of the system, for official weights.
      stage: name of the stage.

    Raises:
      FileNotFoundError: there is nothing at `source`.
      ValueError: nothing in it fits.
    """
    if not Path(source).exists():
        raise FileNotFoundError(f"--init-from {source}: there is no such run, folder or file")

    def initialise(state: State) -> State:
        # Here, because a run that continues needs none of it.
        candidates = _variables(source, system)
        if stage not in candidates:
            _report(f"{stage}: {source} has only {sorted(candidates)}, so it starts fresh")
            return state
        candidate = candidates[stage]
        own = {"params": state["params"], **collections_of(state)}
        loaded, report = partial_load(to_host(own), to_host(candidate))
        _report(f"{stage} from {source}:\n{report}")
        state = {**state, **jax.tree.map(jnp.asarray, loaded)}
        if "ema" in state:
            state["ema"] = jax.tree.map(jnp.copy, state["params"])
        return state

    return initialise


def _variables(source: str, system: str) -> dict[str, Any]:
    path = Path(source)
    if path.is_dir() and (path / "config.json").exists():
        return dict(load(path).variables)
    return {component.role: component.variables for component in convert.load(system, source).values()}


def _report(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
