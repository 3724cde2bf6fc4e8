"""Discrete power laws by likelihood (Clauset, Shalizi & Newman 2009), and whether another law fits better."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

from jaxtok.codes import Array


@dataclasses.dataclass(frozen=True)
class PowerLawFit:
    """p(x) = x^-alpha / zeta(alpha, x_min) of the values from x_min on.

    Attributes:
      alpha: exponent.
      x_min: smallest value that the law is about.
      distance: Kolmogorov-Smirnov distance of the tail.
      tail: how many values are in it.
    """

    alpha: float
    x_min: int
    distance: float
    tail: int


@dataclasses.dataclass(frozen=True)
class Vuong:
    """Likelihood ratio of two laws of one tail (Vuong 1989).

    Attributes:
      ratio: per value, the mean of log p(power law) - log p(other); positive speaks for the power law.
      statistic: the sum, in units of its standard deviation.
      p_value: two-sided; above 0.1 the sign means nothing.
    """

    ratio: float
    statistic: float
    p_value: float


def fit_power_law(values: Int[Array, " X"], x_min: int | None = None) -> PowerLawFit:
    """Fits the tail of positive whole numbers, for example how often each type occurs.

    `alpha = 1 + n / sum ln(x / (x_min - 1/2))`, the approximation that is good for x_min of about 6 and more.

    Args:
      values: positive.
      x_min: start of the tail; None for the one with the smallest distance between the fit and the values
        (among those with at least two different values from it on).

    Raises:
      ValueError: values that are not positive, or a tail of a single value.
    """
    values = _positive(values)
    support, counts = np.unique(values, return_counts=True)
    if x_min is None:
        candidates = support[:-1]
    else:
        candidates = np.array([x_min] if x_min < support[-1] else [], np.int64)
    if not len(candidates):
        raise ValueError(
            f"the values from x_min={x_min} on are all {support[-1]}: a power law needs two different ones"
        )
    fits = [_fit_tail(support, counts, int(start)) for start in candidates]
    return min(fits, key=lambda fit: fit.distance)


def compare_laws(values: Int[Array, " X"], fit: PowerLawFit) -> dict[str, Vuong]:
    """Vuong's test of the power law against a lognormal and an exponential law of the same tail, both
    discrete and fitted by likelihood.

    Raises:
      ValueError: values that are not positive, or no tail.
    """
    values = _positive(values)
    support, counts = np.unique(values[values >= fit.x_min], return_counts=True)
    if len(support) < 2:
        raise ValueError(
            f"fewer than two different values from x_min={fit.x_min} on; nothing can be compared"
        )
    power = -fit.alpha * np.log(support) - np.log(special.zeta(fit.alpha, fit.x_min))
    others = {
        "lognormal": _lognormal(support, counts, fit.x_min),
        "exponential": _exponential(support, counts, fit.x_min),
    }
    return {name: _vuong(power - other, counts) for name, other in others.items()}


def _positive(values: Array) -> np.ndarray:
    values = np.asarray(values).astype(np.int64)
    if values.ndim != 1 or not len(values) or values.min() < 1:
        raise ValueError("a power law is of positive whole numbers [X]; leave out types that do not occur")
    return values


def _fit_tail(support: np.ndarray, counts: np.ndarray, x_min: int) -> PowerLawFit:
    inside = support >= x_min
    x, n = support[inside], counts[inside]
    alpha = 1 + n.sum() / float(n @ np.log(x / (x_min - 0.5)))
    # Both functions are steps: their largest distance is at a value that occurs, or just before one.
    upper = special.zeta(alpha, np.stack([x + 1, x])) / special.zeta(alpha, x_min)
    seen = np.cumsum(n) / n.sum()
    at, before = np.abs(seen - (1 - upper[0])), np.abs(seen - n / n.sum() - (1 - upper[1]))
    return PowerLawFit(float(alpha), x_min, float(max(at.max(), before.max())), int(n.sum()))


def _lognormal(x: np.ndarray, counts: np.ndarray, x_min: int) -> Float[np.ndarray, " X"]:
    """log p of a lognormal law rounded to whole numbers."""

    def log_p(parameters: Any) -> np.ndarray:
        mean, deviation = parameters[0], math.exp(parameters[1])
        edges = (np.log(np.stack([x - 0.5, x + 0.5])) - mean) / deviation
        start = (math.log(x_min - 0.5) - mean) / deviation
        # Upper tails, where a difference of lower ones would be 1 - 1.
        low, high = special.log_ndtr(-edges[0]), special.log_ndtr(-edges[1])
        inside = low + np.log(np.maximum(-np.expm1(high - low), 1e-300))
        return inside - special.log_ndtr(-start)

    logs = np.log(x)
    mean = float(counts @ logs / counts.sum())
    deviation = float(np.sqrt(counts @ (logs - mean) ** 2 / counts.sum()))
    start = np.array([mean, math.log(max(deviation, 1e-3))])
    found = optimize.minimize(
        lambda parameters: -float(counts @ log_p(parameters)) / counts.sum(), start, method="Nelder-Mead"
    )
    return log_p(found.x)


def _exponential(x: np.ndarray, counts: np.ndarray, x_min: int) -> Float[np.ndarray, " X"]:
    """log p of the geometric law from x_min on, whose likeliest rate is known."""
    mean = float(counts @ (x - x_min)) / counts.sum()
    rate = math.log1p(1 / mean)
    return math.log(-math.expm1(-rate)) - rate * (x - x_min)


def _vuong(differences: np.ndarray, counts: np.ndarray) -> Vuong:
    total = counts.sum()
    mean = float(counts @ differences / total)
    deviation = math.sqrt(max(float(counts @ (differences - mean) ** 2 / total), 1e-300))
    statistic = mean * math.sqrt(total) / deviation
    return Vuong(mean, statistic, math.erfc(abs(statistic) / math.sqrt(2)))
