"""Finding out where a run went wrong."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

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
      saved_in: Where the state was saved for inspection, if it was.

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
        message += f" State saved in {saved_in}."
    raise NonFiniteError(message)
