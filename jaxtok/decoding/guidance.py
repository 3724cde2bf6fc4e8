"""Classifier-free guidance (arXiv 2207.12598), on logits and on velocities."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtok.codes import Condition


def _from_conditional(conditional, unconditional, s):
    return conditional + s * (conditional - unconditional)


def _from_unconditional(conditional, unconditional, s):
    return unconditional + s * (conditional - unconditional)


GUIDANCE_RULES: dict[str, Callable[..., jax.Array]] = {
    # Strength 0 is the conditional model itself.
    "c+s(c-u)": _from_conditional,
    # Strength 1 is the conditional model itself, 0 the unconditional one.
    "u+s(c-u)": _from_unconditional,
}

# The strength at which nothing is guided.
NEUTRAL_STRENGTH = {"c+s(c-u)": 0.0, "u+s(c-u)": 1.0}

GuidanceSchedule = Literal["constant", "linear", "power-cosine"]


def guide(
    conditional: Float[jax.Array, "*shape"],
    unconditional: Float[jax.Array, "*shape"],
    strength: float | jax.Array,
    rule: str = "c+s(c-u)",
) -> Float[jax.Array, "*shape"]:
    """Combines conditional and unconditional logits.

    Raises:
      ValueError: an unknown rule. The two in use differ by one in the strength, so it is always named.
    """
    check_rule(rule)
    return GUIDANCE_RULES[rule](conditional, unconditional, strength)


@dataclasses.dataclass(frozen=True)
class Projection:
    """Adaptive projected guidance (APG, arXiv 2410.02416): strong guidance without over-saturation.

        a <- (c - u) + momentum a          d = a min(1, threshold / |a|)
        guided = c + (s - 1) (d_perpendicular + parallel d_parallel)          relative to c

    Norms and products are over all axes of an example but the batch, in float32.

    Attributes:
      momentum: weight of the earlier differences; negative pushes away from them.
      threshold: largest norm of a difference; 0 for any.
      parallel: how much is kept of the part along c; 1 for all of it.
    """

    momentum: float = -0.5
    threshold: float = 2.5
    parallel: float = 0.0

    def __call__(
        self,
        conditional: Float[jax.Array, "B *shape"],
        unconditional: Float[jax.Array, "B *shape"],
        strength: float | jax.Array,
        average: Float[jax.Array, "B *shape"],
    ) -> tuple[Float[jax.Array, "B *shape"], Float[jax.Array, "B *shape"]]:
        """Guided prediction, and the running difference for the next step.

        Args:
          conditional, unconditional: predictions.
          strength: s of `u+s(c-u)`; 1 is the conditional model itself.
          average: running difference of the step before, zeros at first.
        """
        axes = tuple(range(1, conditional.ndim))
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))
        difference = average = conditional - unconditional + self.momentum * average
        if self.threshold:
            size = jnp.maximum(norm(difference), 1e-12)
            difference = difference * jnp.minimum(1.0, self.threshold / size)
        direction = conditional / jnp.maximum(norm(conditional), 1e-12)
        along = jnp.sum(difference * direction, axis=axes, keepdims=True) * direction
        change = difference - along + self.parallel * along
        return conditional + (strength - 1) * change, average


def with_unconditional(condition: Condition) -> Condition:
    """A condition of 2B rows: B conditional ones, then B unconditional ones, for one pass instead of two."""
    other = condition.unconditional()

    def stack(axis):
        return lambda mine, null: jnp.concatenate([mine, null], axis=axis)

    features = jax.tree.map(stack(condition.batch_axis), condition.features, other.features)
    mask = None
    if other.mask is not None:
        mask = jnp.ones_like(other.mask) if condition.mask is None else condition.mask
        mask = stack(0)(mask, other.mask)
    return dataclasses.replace(condition, features=features, mask=mask, null=None)


def guide_stacked(logits: Float[jax.Array, "B2 *shape"], strength: float | jax.Array, rule: str) -> jax.Array:
    """`guide` for logits of 2B rows made from `with_unconditional`."""
    conditional, unconditional = jnp.split(logits, 2, axis=0)
    return guide(conditional, unconditional, strength, rule)


def check_rule(rule: str) -> None:
    """Raises `ValueError` for an unknown rule."""
    if rule not in GUIDANCE_RULES:
        raise ValueError(f"guidance rule {rule!r}; choose one of {list(GUIDANCE_RULES)}")


def check_schedule(schedule: str) -> None:
    """Raises `ValueError` for an unknown schedule."""
    if schedule not in get_args(GuidanceSchedule):
        raise ValueError(f"guidance schedule {schedule!r}; choose one of {get_args(GuidanceSchedule)}")


def guidance_strength(
    strength: float,
    progress: float | np.ndarray | jax.Array,
    schedule: str = "constant",
    power: float = 1.0,
    start: float = 0.0,
) -> jax.Array:
    """Strength of guidance during sampling: from `start` to `strength`.

        constant      strength throughout
        linear        start + (strength - start) r                                TiTok (arXiv 2406.07550)
        power-cosine  start + (strength - start) (1 - cos(pi r^power)) / 2        RAR (arXiv 2411.00776)

    Args:
      strength: at the end.
      progress: r in [0, 1], the part of the steps that is done before this one.
      schedule: its course.
      power: of "power-cosine"; above 1 the guidance comes later.
      start: at the beginning; `NEUTRAL_STRENGTH` of the rule starts without guidance.

    Raises:
      ValueError: an unknown schedule.
    """
    check_schedule(schedule)
    progress = jnp.asarray(progress, jnp.float32)
    if schedule == "constant":
        return jnp.full_like(progress, strength)
    done = progress if schedule == "linear" else (1 - jnp.cos(jnp.pi * progress**power)) / 2
    return start + (strength - start) * done
