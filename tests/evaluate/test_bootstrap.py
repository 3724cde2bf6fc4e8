import numpy as np
import pytest

from jaxtok.evaluate.bootstrap import bootstrap, frechet_interval, paired_difference
from jaxtok.evaluate.frechet import frechet_distance
from tests.evaluate.sheet import A, B

RANDOM = np.random.default_rng(0)


def test_interval_of_a_mean_is_that_of_its_standard_error():
    values = RANDOM.normal(3, 2, 400)
    found = bootstrap(lambda rows: float(np.mean(rows)), values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(half, rel=0.2)
    assert found.value - found.low == pytest.approx(half, rel=0.2)
    assert found == bootstrap(lambda rows: float(np.mean(rows)), values)
    narrow = bootstrap(lambda rows: float(np.mean(rows)), values, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_pairs_take_out_what_is_common():
    hard = RANDOM.normal(0, 10, 100)
    a, b = hard + RANDOM.normal(0, 0.1, 100), hard + 0.2 + RANDOM.normal(0, 0.1, 100)
    found = paired_difference(a, b)
    assert 0 < found.low < 0.2 < found.high < 0.4
    apart = bootstrap(lambda x, y: float(np.mean(y) - np.mean(x)), a, b)
    assert apart.low < 0 < apart.high
    with pytest.raises(ValueError, match="every row needs its partner"):
        paired_difference(a, b[:50])


def test_frechet_interval():
    found = frechet_interval(A, B, resamples=20)
    assert found.value == frechet_distance(A, B) and 0 < found.low < found.high


def test_errors():
    for options in ({"resamples": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="a level between 0 and 1"):
            bootstrap(np.mean, A, **options)
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap(np.mean, A[:0])
