"""Metrics that compare two sets of features, or look at one set of class scores: functions of features alone.

  kernel_distance     KID (arXiv 1801.01401): squared maximum mean discrepancy with a cubic kernel, unbiased
  class_score         the Inception score (arXiv 1606.03498), of whatever classifier the logits are
  precision_recall    arXiv 1904.06991: how much of each set lies within the other, by nearest neighbours
  density_coverage    arXiv 2002.09797: the same, less moved by outliers

All in float64. The feature network, its resizing and the number of images belong to the protocol of a result.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_BLOCK = 2**25  # distances that are held at a time (256 MB)
SHUFFLE_SEED = 2020  # torch-fidelity shuffles with this seed before it splits


class Spread(NamedTuple):
    """A mean and the population standard deviation behind it (over splits, or over subsets)."""

    mean: float
    deviation: float


def squared_mmd(x: Float[np.ndarray, "A D"], y: Float[np.ndarray, "B E"]) -> float:
    """Unbiased estimate of the squared MMD with the kernel `(a . b / D + 1)^3`; may be negative.

    Raises:
      ValueError: fewer than two rows in a set, or sets of different widths; or rows that are not finite.
    """
    x, y = _pair(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"sets of {len(x)} and {len(y)} rows; an unbiased MMD needs at least two of each")

    def kernel(a, b):
        products = a @ b.T / x.shape[1] + 1
        return products * products * products  # NumPy's cube is many times slower

    def within(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def kernel_distance(
    x: Float[np.ndarray, "A D"],
    y: Float[np.ndarray, "B E"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = SHUFFLE_SEED,
) -> Spread:
    """KID: mean and deviation of `squared_mmd` over random subsets of equal size, without replacement.

    Args:
      x, y: features.
      subsets: how many subsets.
      subset_size: rows of each; as many as both sets have. Where that is all rows of both, there is one.
      seed: of the choice.

    Raises:
      ValueError: as `squared_mmd`; or fewer than one subset, or subsets of fewer than two rows.
    """
    size = min(subset_size, len(x), len(y))
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets={subsets} of subset_size={subset_size}; at least one, of two rows")
    if size == len(x) == len(y):
        return Spread(squared_mmd(x, y), 0.0)
    rng = np.random.default_rng(seed)
    draw = lambda rows: rows[rng.choice(len(rows), size, replace=False)]
    values = [squared_mmd(draw(x), draw(y)) for _ in range(subsets)]
    return Spread(float(np.mean(values)), float(np.std(values)))


def class_score(
    logits: Float[np.ndarray, "N C"], *, splits: int = 10, shuffle_seed: int | None = SHUFFLE_SEED
) -> Spread:
    """`exp(mean_n KL(p_n || mean_n p_n))` of p = softmax(logits), between 1 and C: mean and deviation over
    splits.

    Args:
      logits: of the classifier; the Inception score takes those without bias.
      splits: consecutive parts that are scored by themselves. Small parts lower the score.
      shuffle_seed: rows are shuffled before (torch-fidelity); None leaves their order (ADM).

    Raises:
      ValueError: fewer rows than splits, or no splits; or rows that are not finite.
    """
    rows = np.asarray(logits, np.float64)
    _check_rows(rows, "logits")
    if not 1 <= splits <= len(rows):
        raise ValueError(f"{len(rows)} rows in splits={splits}; each split needs at least one row")
    if shuffle_seed is not None:
        rows = rows[np.random.RandomState(shuffle_seed).permutation(len(rows))]
    rows = rows - rows.max(axis=1, keepdims=True)
    log_p = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    scores = []
    for i in range(splits):
        part = log_p[i * len(rows) // splits : (i + 1) * len(rows) // splits]
        p, mean = np.exp(part), np.exp(part).mean(axis=0)
        # A class that no row can be has p = 0 everywhere, and counts nothing.
        log_mean = np.log(np.where(mean > 0, mean, 1.0))
        divergence = np.sum(p * (np.where(p > 0, part, 0.0) - log_mean), axis=1)
        scores.append(np.exp(divergence.mean()))
    return Spread(float(np.mean(scores)), float(np.std(scores)))


class PrecisionRecall(NamedTuple):
    """Share of generated rows near real ones, and of real rows near generated ones; both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    generated: Float[np.ndarray, "A D"], real: Float[np.ndarray, "B E"], *, neighbours: int = 3
) -> PrecisionRecall:
    """A row lies within a set if it is inside the ball of one of its rows, which reaches to that row's k-th
    nearest other row.

    Raises:
      ValueError: a set has no k-th other row, or the sets differ in width; or rows that are not finite.
    """
    generated, real = _near_zero(*_pair(generated, real))
    near_real = _radii(real, neighbours)
    near_generated = _radii(generated, neighbours)
    inside = np.concatenate([(d <= near_real).any(axis=1) for _, d in _distances(generated, real)])
    covered = np.concatenate([(d <= near_generated).any(axis=1) for _, d in _distances(real, generated)])
    return PrecisionRecall(float(inside.mean()), float(covered.mean()))


class DensityCoverage(NamedTuple):
    """Real balls per generated row, over k (1 is expected of equal distributions, more is possible); and the
    share of real balls with a generated row inside.
    """

    density: float
    coverage: float


def density_coverage(
    generated: Float[np.ndarray, "A D"], real: Float[np.ndarray, "B E"], *, neighbours: int = 5
) -> DensityCoverage:
    """Density and coverage by the balls of the real rows, see `precision_recall`.

    Raises:
      ValueError: the real set has no k-th other row, or the sets differ in width; or rows that are not
        finite.
    """
    generated, real = _near_zero(*_pair(generated, real))
    radii, count, reached = _radii(real, neighbours), 0, np.zeros(len(real), bool)
    for _, distances in _distances(generated, real):
        inside = distances <= radii
        count, reached = count + int(inside.sum()), reached | inside.any(axis=0)
    return DensityCoverage(count / (neighbours * len(generated)), float(reached.mean()))


def _pair(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions; use one feature network")
    for rows in (x, y):
        _check_rows(rows, "features")
    return x, y


def _check_rows(rows: np.ndarray, what: str) -> None:
    """Raises a ValueError where there is nothing to measure, or something that is no number."""
    if not len(rows):
        raise ValueError(f"a set of {what} has no rows; give at least one image")
    if wrong := int((~np.isfinite(rows)).any(axis=1).sum()):
        raise ValueError(
            f"{wrong} of {len(rows)} rows of {what} are not finite; look at the images that they come from"
        )


def _near_zero(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets moved so that their middle is at zero.

    Distances do not change, but squares of features far from zero would cancel all digits of them.
    """
    middle = (x.mean(axis=0) + y.mean(axis=0)) / 2
    return x - middle, y - middle


def _radii(rows: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row."""
    if not 1 <= neighbours < len(rows):
        raise ValueError(f"neighbours={neighbours} of {len(rows)} rows; choose 1 to {len(rows) - 1}")
    radii = []
    for own, distances in _distances(rows, rows):
        distances[np.arange(len(own)), own] = 0.0  # rounding must not hide that this is the row itself
        radii.append(np.partition(distances, neighbours, axis=1)[:, neighbours])
    return np.concatenate(radii)


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers of x, and their squared distances to all rows of y, some rows at a time."""
    squares, size = np.sum(y * y, axis=1), max(1, _BLOCK // len(y))
    for first in range(0, len(x), size):
        part = x[first : first + size]
        distances = np.sum(part * part, axis=1, keepdims=True) + squares - 2 * part @ y.T
        yield np.arange(first, first + len(part)), np.maximum(distances, 0.0)
