"""Gaussian diffusion in discrete steps with learned variances (arXiv 2006.11239, arXiv 2102.09672): its
tables, the step back, and the loop from noise to data.

    x_t = sqrt(A_t) x_0 + sqrt(1 - A_t) e,    A_t = prod (1 - beta),    t = 0 ... T - 1
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxtok import keys as random

# (noised data, times) -> noise, and where in [-1, 1] between its bounds the log-variance of the step back is
Denoiser = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Course(NamedTuple):
    """Tables of the steps of a diffusion, float32 [S].

    Attributes:
      times: t of each step in the whole diffusion.
      kept: A, the part of the data's variance that is left.
      signal, noise: sqrt(A) and sqrt(1 - A), rounded once: in float32, 1 - A has three digits where A is near
        1.
      from_data, from_noised: weights of x_0 and x_t in the mean of the step back.
      lower, upper: bounds of its log-variance: that of the exact step back where x_0 is known, and log beta.
    """

    times: np.ndarray
    kept: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    from_data: np.ndarray
    from_noised: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@dataclasses.dataclass(frozen=True)
class GaussianDiffusion:
    """How noise comes to data.

    Attributes:
      steps: T.
      schedule: "cosine" (A_t = cos^2((t/T + 0.008) / 1.008 pi / 2), beta at most 0.999) or "linear" (beta
        from 0.1 / T to 20 / T).
    """

    steps: int = 1000
    schedule: str = "cosine"

    def __post_init__(self):
        if self.steps < 2 or self.schedule not in ("cosine", "linear"):
            raise ValueError(
                f"steps={self.steps} must be at least 2, schedule={self.schedule!r} 'cosine' or 'linear'"
            )

    def course(self, steps: int = 0) -> Course:
        """Tables of the whole diffusion, or of fewer steps that are spread over it evenly, both ends among
        them.

        Args:
          steps: S, at least 2; 0 for all.

        Raises:
          ValueError: more steps than there are, or one.
        """
        return _course(self, steps)

    def betas(self) -> np.ndarray:
        """Variance of the noise that each step adds, float64 [T]."""
        if self.schedule == "linear":
            return np.linspace(0.1, 20.0, self.steps) / self.steps
        place = (np.arange(self.steps + 1) / self.steps + 0.008) / 1.008
        kept = np.cos(place * math.pi / 2) ** 2
        return np.minimum(1 - kept[1:] / kept[:-1], 0.999)


@functools.lru_cache(maxsize=16)
def _course(diffusion: GaussianDiffusion, steps: int) -> Course:
    whole = diffusion.steps
    if steps == 1 or not 0 <= steps <= whole:
        raise ValueError(f"steps={steps} of a diffusion in {whole} steps; choose 2 to {whole}, or 0 for all")
    times = np.round(np.linspace(0, whole - 1, steps or whole)).astype(np.int64)
    kept = np.cumprod(1 - diffusion.betas())[times]
    before = np.concatenate([[1.0], kept[:-1]])
    betas = 1 - kept / before
    exact = betas * (1 - before) / (1 - kept)
    # The last step back has no variance, so its bound is that of the step in front of it.
    lower = np.log(np.concatenate([exact[1:2], exact[1:]]))
    from_data = betas * np.sqrt(before) / (1 - kept)
    from_noised = (1 - before) * np.sqrt(1 - betas) / (1 - kept)
    tables = (times, kept, np.sqrt(kept), np.sqrt(1 - kept), from_data, from_noised, lower, np.log(betas))
    return Course(*(table.astype(np.float32) for table in tables))


def data_of(
    course: Course, index: Int[jax.Array, "*batch"], x: Float[jax.Array, "*batch C"], noise: jax.Array
) -> Float[jax.Array, "*batch C"]:
    """The data that noised data come from if this is their noise; `index` says which step of the course."""
    signal, spread = (jnp.asarray(table)[index][..., None] for table in (course.signal, course.noise))
    return (x - spread * noise) / signal


def step_back(
    course: Course, index: Int[jax.Array, "*batch"], x: Float[jax.Array, "*batch C"], data: jax.Array
) -> tuple[Float[jax.Array, "*batch C"], Float[jax.Array, "*batch 1"], Float[jax.Array, "*batch 1"]]:
    """Mean of one step less of noise for given data, and the two bounds of its log-variance."""
    table = lambda name: jnp.asarray(getattr(course, name))[index][..., None]
    return table("from_data") * data + table("from_noised") * x, table("lower"), table("upper")


def variance_between(variance: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The log-variance that a network places between its bounds: -1 is the lower one, 1 the upper one."""
    part = (variance + 1) / 2
    return part * upper + (1 - part) * lower


def sample_diffusion(
    denoiser: Denoiser,
    noise: Float[jax.Array, "B M C"],
    keys: jax.Array,
    course: Course,
    temperature: float = 1.0,
) -> Float[jax.Array, "B M C"]:
    """Data of noise by the steps back of a course; one scan.

    Args:
      denoiser: takes noised data and times [B, M].
      noise: where it starts.
      keys: one per row, for the noise of the steps.
      course: of the diffusion.
      temperature: factor of that noise.
    """

    def step(x, index):
        places = jnp.full(x.shape[:2], index)
        predicted, variance = denoiser(x, jnp.asarray(course.times)[places])
        mean, lower, upper = step_back(course, places, x, data_of(course, places, x, predicted))
        spread = jnp.exp(0.5 * variance_between(variance, lower, upper)) * temperature
        drawn = random.normal(random.fold(keys, index), x.shape[1:])
        return mean + jnp.where(index > 0, spread, 0.0) * drawn, None

    return jax.lax.scan(step, noise, jnp.arange(len(course.times))[::-1])[0]
