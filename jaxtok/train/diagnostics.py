"""Finding out where a run went wrong, and going on without the step that did."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.train.tree_paths import leaves_by_path


class NonFiniteError(FloatingPointError):
    """A metric of the run is nan or infinite."""


def module_norms(tree: Any, depth: int = 2) -> dict[str, jax.Array]:
    """L2 norms of a tree of gradients (or parameters) grouped by the first `depth` segments of their paths.

    Pure and cheap: call it in the compiled update. Computed in float32.

    Args:
      tree: Pytree of arrays, such as `{"decoder": {"up_2": {"kernel": ...}}}`.
      depth: `2` groups by `decoder/up_2`; a scanned stack is one group, because its layers are one array.

    Returns:
      `{group: float32[]}`.
    """
    squares: dict[str, jax.Array] = {}
    for path, leaf in leaves_by_path(tree).items():
        group = "/".join(path.split("/")[:depth])
        square = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        squares[group] = squares[group] + square if group in squares else square
    return {group: jnp.sqrt(square) for group, square in squares.items()}


def nonfinite(metrics: Mapping[str, float]) -> list[str]:
    """Names of the metrics that are nan or infinite."""
    return [name for name, value in metrics.items() if not math.isfinite(value)]


def check_finite(
    metrics: Mapping[str, float],
    step: int,
    last_finite_step: int,
    norms: Mapping[str, float] | None = None,
    saved_in: str = "",
) -> None:
    """Raises an error that says where to look, if a metric is not finite.

    Args:
      metrics: Host floats of this step.
      step: This step.
      last_finite_step: The newest step whose metrics were checked and fine.
      norms: Gradient norms from `module_norms`. One that is not finite counts as the largest.
      saved_in: Where the step was dumped for inspection, if it was.

    Raises:
      NonFiniteError: Names the metrics, the step and the module with the largest gradient norm.
    """
    names = nonfinite(metrics)
    if not names:
        return
    values = ", ".join(f"{name} is {metrics[name]}" for name in names)
    message = f"{values} at step {step} (process {jax.process_index()}). Last finite step {last_finite_step}."
    if norms:
        largest = max(norms, key=lambda name: norms[name] if math.isfinite(norms[name]) else math.inf)
        message += f" Largest gradient norm: {largest} ({norms[largest]:.3g})."
    if saved_in:
        message += f" The batch and all metrics of that step are in {saved_in}."
    raise NonFiniteError(message)


SKIPPED = "skipped"  # 1 in the metrics of a step that `without_nonfinite_steps` undid, 0 in those of others


def without_nonfinite_steps(update: Callable[..., Any]) -> Callable[..., Any]:
    """An update that leaves the state as it was, but for the step count, where a metric is nan or infinite.

    Needs memory for a second state. The metrics get `SKIPPED`.

    Args:
      update: `(state, batch, frozen, key) -> (state, metrics)`; the metrics have the norm of the gradients or
        anything else that is not finite when the new state is not.
    """

    def careful(state: Any, batch: Any, frozen: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        new, metrics = update(state, batch, frozen, key)
        fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
        kept = jax.tree.map(lambda after, before: jnp.where(fine, after, before), new, dict(state))
        return {**kept, "step": new["step"]}, {**metrics, SKIPPED: jnp.where(fine, 0.0, 1.0)}

    return careful


def dump_step(folder: Path, step: int, metrics: Mapping[str, float], batch: Mapping[str, Any]) -> Path:
    """Writes what is needed to see why a step failed.

    Args:
      folder: of the dumps of a stage.
      step: which step.
      metrics: everything that was measured in it, also the norms of modules.
      batch: this process's part of what it was trained on.

    Returns:
      A folder with `metrics.json` and `batch-<process>.npz`.
    """
    path = folder / f"step-{step}"
    path.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in batch.items()}
    np.savez(path / f"batch-{jax.process_index()}.npz", **arrays)
    if jax.process_index() == 0:
        # JSON knows neither nan nor infinity.
        plain = {name: v if math.isfinite(v) else str(v) for name, v in metrics.items()}
        (path / "metrics.json").write_text(json.dumps({"step": step, **plain}, indent=2) + "\n")
    return path
