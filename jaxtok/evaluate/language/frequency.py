"""Rank and frequency of token types: Zipf, Zipf-Mandelbrot, hapaxes, Benford.

Power laws of how many types occur how often, and tests against other laws, are in `power_law`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import optimize

from jaxtok.codes import Array


@dataclasses.dataclass(frozen=True)
class ZipfFit:
    """log f = intercept + slope * log(rank + shift), natural logarithms.

    Attributes:
      slope: minus the exponent.
      intercept: logarithm of the frequency at rank + shift = 1.
      r_squared: of the logarithms; NaN of a fit by likelihood.
      ranks: (first, last) of the fit.
      shift: b of Zipf-Mandelbrot, 0 of Zipf.
    """

    slope: float
    intercept: float
    r_squared: float
    ranks: tuple[int, int]
    shift: float = 0.0


def rank_frequency(counts: Num[Array, " types"]) -> tuple[Int[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """Ranks 1 to R of the types that occur, and their frequencies, the largest first.

    Raises:
      ValueError: nothing occurs.
    """
    counts = np.asarray(counts, np.float64)
    frequency = np.sort(counts[counts > 0])[::-1]
    if not len(frequency):
        raise ValueError("no token occurs, so there are no ranks")
    return np.arange(1, len(frequency) + 1), frequency


def fit_zipf(counts: Num[Array, " types"], first: int = 1, last: int | None = None) -> ZipfFit:
    """Least squares of log f on log rank. Every rank weighs the same, so the many rare types decide: report
    the likelihood's exponent beside it.

    Args:
      counts: of each type; zeros are left out.
      first, last: ranks to fit, both included; None for all.

    Raises:
      ValueError: fewer than two ranks in the range.
    """
    ranks, frequency = _chosen(counts, first, last)
    return _least_squares(ranks, frequency, 0.0)


def fit_zipf_mandelbrot(counts: Num[Array, " types"], first: int = 1, last: int | None = None) -> ZipfFit:
    """f proportional to (rank + b)^-a by least squares of the logarithms, b >= 0 up to ten times the ranks.

    Raises:
      ValueError: fewer than three ranks in the range.
    """
    ranks, frequency = _chosen(counts, first, last)
    if len(ranks) < 3:
        raise ValueError(f"{len(ranks)} ranks do not determine three parameters; give at least 3")

    def loss(log_shift: float) -> float:
        return 1 - _least_squares(ranks, frequency, np.expm1(log_shift)).r_squared

    found = optimize.minimize_scalar(
        loss, bounds=(0.0, float(np.log1p(10 * ranks[-1]))), method="bounded", options={"xatol": 1e-8}
    )
    best = _least_squares(ranks, frequency, float(np.expm1(found.x)))
    plain = _least_squares(ranks, frequency, 0.0)  # the bounded search does not try its ends
    return best if best.r_squared > plain.r_squared else plain


def fit_zipf_likelihood(counts: Num[Array, " types"]) -> ZipfFit:
    """The exponent under which the tokens are likeliest if a token of rank r has probability proportional to
    r^-a, over the ranks that occur. Frequent types weigh more; sorting ranks by what was seen biases `a`
    upwards a little.

    Raises:
      ValueError: fewer than two types.
    """
    ranks, frequency = _chosen(counts, 1, None)
    logs, total = np.log(ranks), frequency.sum()
    mean = float(frequency @ logs / total)

    def loss(exponent: float) -> float:
        return exponent * mean + _log_sum_exp(-exponent * logs)

    exponent = float(optimize.minimize_scalar(loss, bounds=(0.0, 20.0), method="bounded").x)
    intercept = float(np.log(total) - _log_sum_exp(-exponent * logs))
    return ZipfFit(-exponent, intercept, float("nan"), (1, len(ranks)))


def hapax_share(counts: Num[Array, " types"]) -> float:
    """Share of the types that occur exactly once."""
    return float(np.mean(rank_frequency(counts)[1] == 1))


def first_digits(counts: Int[Array, " types"]) -> Float[np.ndarray, " 9"]:
    """How often each first digit, 1 to 9, leads the count of a type that occurs."""
    values = rank_frequency(counts)[1].astype(np.int64)
    # Of whole numbers as text, because a logarithm may round 1,000 to 999.999...
    digits = np.array([int(str(value)[0]) for value in values])
    return np.bincount(digits, minlength=10)[1:] / len(values)


def benford_deviation(counts: Int[Array, " types"]) -> float:
    """Mean absolute deviation of the first digits from Benford's law, log10(1 + 1/d); below 0.015 counts as
    conforming (Nigrini 2012), a uniform distribution has 0.06.
    """
    return float(np.mean(np.abs(first_digits(counts) - np.log10(1 + 1 / np.arange(1, 10)))))


def _chosen(counts: Array, first: int, last: int | None) -> tuple[np.ndarray, np.ndarray]:
    ranks, frequency = rank_frequency(counts)
    inside = (ranks >= first) & (ranks <= (len(ranks) if last is None else last))
    if inside.sum() < 2:
        raise ValueError(
            f"ranks {first} to {last} hold {inside.sum()} of the {len(ranks)} types that occur; a line "
            "needs two"
        )
    return ranks[inside], frequency[inside]


def _least_squares(ranks: np.ndarray, frequency: np.ndarray, shift: float) -> ZipfFit:
    x, y = np.log(ranks + shift), np.log(frequency)
    deviation, spread = x - x.mean(), y - y.mean()
    slope = float(deviation @ spread / (deviation @ deviation))
    total = float(spread @ spread)
    r_squared = 1 - float(np.sum((spread - slope * deviation) ** 2)) / total if total > 0 else 1.0
    intercept = float(y.mean() - slope * x.mean())
    return ZipfFit(slope, intercept, r_squared, (int(ranks[0]), int(ranks[-1])), float(shift))


def _log_sum_exp(values: np.ndarray) -> float:
    top = values.max()
    return float(top + np.log(np.sum(np.exp(values - top))))
