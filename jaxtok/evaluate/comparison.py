"""Is a difference more than noise: bootstrap intervals over examples, and paired seeds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxtok.codes import Array

Statistic = Callable[[np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and the range in which it moves when the examples are drawn anew.

    Attributes:
      value: of the examples as they are.
      low, high: percentiles of the resampled values.
      level: share of them inside.
      examples: N.
    """

    value: float
    low: float
    high: float
    level: float
    examples: int

    def excludes(self, value: int | float) -> bool:
        """Whether a value, such as no difference, lies outside."""
        return not self.low <= value <= self.high


def bootstrap(
    rows: Float[Array, "N *rest"],
    statistic: Statistic = lambda rows: float(np.mean(rows)),
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap (Efron 1979): examples are drawn with replacement.

    Args:
      rows: one row per example: its metric, or its features.
      statistic: of rows, for example the Frechet distance of features to a fixed reference (whose bias for
        few examples the interval has too).
      resamples: how often.
      level: share of the resamples inside the interval.
      seed: of the draws.

    Raises:
      ValueError: no examples, no resamples, or a level outside (0, 1).
    """
    rows = np.asarray(rows, np.float64)
    if not len(rows) or resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"{len(rows)} examples, resamples={resamples}, level={level}: a bootstrap needs at least one of "
            "both, and a level in (0, 1)"
        )
    rng = np.random.default_rng(seed)
    drawn = [statistic(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(rows)), float(low), float(high), level, len(rows))


def bootstrap_difference(a: Float[Array, " N"], b: Float[Array, " N"], **settings: Any) -> Interval:
    """Interval of mean(b - a) of two systems on the same examples, which takes out what makes examples hard.

    Args:
      a, b: metric per example, in the same order.
      **settings: of `bootstrap`.

    Raises:
      ValueError: see `bootstrap`.
    """
    return bootstrap(np.asarray(b, np.float64) - np.asarray(a, np.float64), **settings)


@dataclasses.dataclass(frozen=True)
class SeedComparison:
    """Two arms that were trained with the same seeds.

    Attributes:
      differences: b - a of each seed.
      mean: of them.
      standard_error: of the mean, from their spread.
      same_sign: whether all have the sign of the mean.
    """

    differences: tuple[float, ...]
    mean: float
    standard_error: float
    same_sign: bool


def compare_seeds(a: Float[Array, " S"], b: Float[Array, " S"]) -> SeedComparison:
    """Paired differences over seeds.

    Args:
      a, b: results of the arms, one per seed, in the same order.

    Raises:
      ValueError: fewer than three seeds.
    """
    differences = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    if len(differences) < 3:
        raise ValueError(f"{len(differences)} paired seeds say too little; use at least 3")
    mean = float(differences.mean())
    same = bool(np.all(np.sign(differences) == np.sign(mean))) and mean != 0
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return SeedComparison(tuple(differences.tolist()), mean, error, same)
