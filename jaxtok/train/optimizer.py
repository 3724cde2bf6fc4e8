"""AdamW with clipping and groups of parameters, and the running average of parameters."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtok.train.schedules import TrainConfig, schedule
from jaxtok.train.tree_paths import leaves_by_path, map_with_path

Groups = tuple[tuple[str, float], ...]


def optimizer(fit: TrainConfig) -> optax.GradientTransformationExtraArgs:
    """AdamW with the clipping, schedule and groups of `fit`.

    Frozen parameters get zero updates, have no moments, and do not count in the norm that is clipped.

    Raises:
      ValueError: At `init`, when a group decides about no parameter.
    """
    steps = []
    if fit.clip_norm:
        steps.append(optax.clip_by_global_norm(fit.clip_norm))
    steps.append(optax.scale_by_adam(*fit.betas, eps=fit.eps))
    if fit.weight_decay:
        steps.append(optax.add_decayed_weights(fit.weight_decay, mask=decays))
    if any(factor not in (0, 1) for _, factor in fit.groups):
        steps.append(_scale_groups(fit.groups))
    steps.append(optax.scale_by_learning_rate(schedule(fit)))
    transformation = optax.chain(*steps)
    if any(factor == 0 for _, factor in fit.groups):
        transformation = optax.partition(
            {"trained": transformation, "frozen": optax.set_to_zero()},
            lambda params: map_with_path(lambda path, _: _label(path, fit.groups), params),
        )

    def init(params: Any) -> Any:
        _check_groups(params, fit.groups)
        return transformation.init(params)

    return optax.GradientTransformationExtraArgs(init, optax.with_extra_args_support(transformation).update)


def factor_of(path: str, groups: Groups) -> float:
    """The learning-rate factor of a parameter: that of the first group found in its path, else 1."""
    return next((factor for pattern, factor in groups if re.search(pattern, path)), 1.0)


def decays(params: Any) -> Any:
    """Marks the leaves with weight decay: neither vectors, nor biases and norm scales of scanned stacks."""

    def marked(path: str, leaf: Any) -> bool:
        return leaf.ndim >= 2 and path.rpartition("/")[2] not in ("bias", "scale")

    return map_with_path(marked, params)


def ema(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Moves the running average of the parameters towards them; call it after the optimizer step.

    Early on the decay is only `(1 + step) / (10 + step)`, so that the average forgets the initialization.

    Args:
      average: Pytree, the average so far (at first a copy of the initial parameters).
      params: The parameters after this step.
      decay: The final decay, in [0, 1).
      step: int32[], optimizer steps finished before this one.

    Returns:
      The new average, with the dtypes of the old one.
    """
    n = jnp.asarray(step, jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(lambda a, p: (a + share * (p - a)).astype(a.dtype), average, params)


def _label(path: str, groups: Groups) -> str:
    return "trained" if factor_of(path, groups) else "frozen"


def _scale_groups(groups: Groups) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, params: map_with_path(lambda path, leaf: leaf * factor_of(path, groups), updates)
    )


def _check_groups(params: Any, groups: Groups) -> None:
    paths = list(leaves_by_path(params))
    deciding = [next((p for p, _ in groups if re.search(p, path)), None) for path in paths]
    if idle := [pattern for pattern, _ in groups if pattern not in deciding]:
        raise ValueError(
            f"optimizer groups {idle} decide about no parameter. Correct the pattern, move it in front of "
            f"the one that hides it, or remove it. Paths look like {', '.join(paths[:5])}."
        )
