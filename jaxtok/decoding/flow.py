"""Samples of a rectified flow (arXiv 2209.03003): from noise at t = 1 to data at t = 0 along a velocity.

    x <- x - v(x, t) / T     for t = 1, (T - 1) / T, ..., 1 / T

The whole course is one loop inside a compiled call; the velocity is any function.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.decoding.guidance import GuidanceSchedule, Projection, check_schedule, guidance_strength, guide

FlowRule = Literal["u+s(c-u)", "projected"]
Strength = float | Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """How to sample a flow.

    Attributes:
      steps: T.
      guidance: strength s of guidance, 1 for the conditional model alone.
      rule: "u+s(c-u)", or "projected", see `Projection`.
      projection: settings of that.
      schedule: course of the strength from 1 to `guidance`, see `guidance_strength`.
      power: of its "power-cosine".
    """

    steps: int = 20
    guidance: float = 7.5
    rule: FlowRule = "projected"
    projection: Projection = Projection()
    schedule: GuidanceSchedule = "constant"
    power: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if self.rule not in ("u+s(c-u)", "projected"):
            raise ValueError(f"guidance rule {self.rule!r} of a flow; choose 'u+s(c-u)' or 'projected'")
        check_schedule(self.schedule)

    @property
    def guided(self) -> bool:
        """Whether the unconditional velocity is needed."""
        return self.guidance != 1.0

    def strength(self, t: jax.Array) -> jax.Array:
        """Strength of guidance at a time."""
        return guidance_strength(self.guidance, 1 - t, self.schedule, self.power, start=1.0)


def sample_flow(
    velocity: Callable[[jax.Array, jax.Array], jax.Array], noise: Float[jax.Array, "B *shape"], steps: int
) -> Float[jax.Array, "B *shape"]:
    """Data that a flow makes of noise, by Euler's method, float32.

    Args:
      velocity: `(x [B, ...], t [B]) -> v [B, ...]`.
      noise: where it starts.
      steps: T, at least 1.
    """

    def step(x, t):
        return x - velocity(x, jnp.full(x.shape[:1], t)) / steps, None

    return jax.lax.scan(step, noise.astype(jnp.float32), flow_course(steps))[0]


def sample_guided_flow(
    velocities: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    noise: Float[jax.Array, "B *shape"],
    steps: int,
    strength: Strength,
    projection: Projection | None = None,
) -> Float[jax.Array, "B *shape"]:
    """`sample_flow` with guidance.

    Args:
      velocities: `(x [B, ...], t [B]) -> (conditional, unconditional)`, in one pass or two.
      noise: where it starts.
      steps: T, at least 1.
      strength: s of `u+s(c-u)`, a number or a function of the time.
      projection: adaptive projected guidance; None for `u+s(c-u)` as it is.
    """

    def step(carry, t):
        x, average = carry
        conditional, unconditional = velocities(x, jnp.full(x.shape[:1], t))
        s = strength(t) if callable(strength) else strength
        if projection is None:
            v = guide(conditional, unconditional, s, "u+s(c-u)")
        else:
            v, average = projection(conditional, unconditional, s, average)
        return (x - v / steps, average), None

    start = noise.astype(jnp.float32)
    return jax.lax.scan(step, (start, jnp.zeros_like(start)), flow_course(steps))[0][0]


def flow_course(steps: int) -> Float[jax.Array, " T"]:
    """The times of the steps: 1, (T - 1) / T, ..., 1 / T."""
    return jnp.arange(steps, 0, -1, dtype=jnp.float32) / steps
