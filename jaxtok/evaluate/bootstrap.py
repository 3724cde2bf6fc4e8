"""How sure a number is: percentile intervals of resampled images (Efron 1979), and paired differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxtok.codes import Array
from jaxtok.evaluate.frechet import frechet_distance


class Interval(NamedTuple):
    """Estimate, and the interval that resampled estimates fall into."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., float],
    *sets: Array,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    paired: bool = False,
) -> Interval:
    """Percentile interval of any statistic of sets of rows.

    Args:
      statistic: of the sets, such as a mean, or a Frechet distance of features.
      *sets: rows of images, values [N] or features [N, D].
      resamples: how many times the rows are drawn anew, with replacement.
      level: share of the resampled values inside the interval.
      seed: of the draws.
      paired: row i of every set is of one image (or one seed), so all sets draw the same rows.

    Raises:
      ValueError: no rows, a level outside (0, 1), no resamples, or paired sets of different sizes.
    """
    rows = [np.asarray(part) for part in sets]
    sizes = {len(part) for part in rows}
    if not rows or min(sizes) < 1 or resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"sets of {sorted(sizes)} rows, resamples={resamples}, level={level}: at least one row and one "
            "resample, and a level between 0 and 1"
        )
    if paired and len(sizes) > 1:
        raise ValueError(f"paired sets have {sorted(sizes)} rows; every row needs its partner")
    rng, values = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = rng.integers(len(rows[0]), size=len(rows[0]))
        draws = [chosen if paired else rng.integers(len(part), size=len(part)) for part in rows]
        values.append(statistic(*(part[draw] for part, draw in zip(rows, draws))))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*rows)), float(low), float(high))


def paired_difference(a: Float[Array, " N"], b: Float[Array, " M"], **options: Any) -> Interval:
    """Interval of the mean of `b - a` over pairs: images measured by two systems, or seeds of two arms."""
    return bootstrap(lambda x, y: float(np.mean(y - x)), a, b, paired=True, **options)


def frechet_interval(x: Float[Array, "A D"], y: Float[Array, "B D"], **options: Any) -> Interval:
    """Interval of the Frechet distance of two sets of features, both resampled.

    Resampled rows repeat, so resampled distances are larger than the distance by about its own bias in 1/N:
    the interval shows the spread, and may lie above the value.
    """
    return bootstrap(lambda a, b: frechet_distance(a, b), x, y, **{"resamples": 200, **options})
