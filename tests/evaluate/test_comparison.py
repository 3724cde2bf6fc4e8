import numpy as np
import pytest

from jaxtok.evaluate.comparison import bootstrap, bootstrap_difference, compare_seeds


def test_interval_of_a_mean_is_that_of_its_standard_error():
    rows = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap(rows)
    half = 1.96 * rows.std(ddof=1) / 20
    np.testing.assert_allclose([found.low, found.high], rows.mean() + np.array([-half, half]), atol=0.04)
    assert found.value == rows.mean() and found.examples == 400
    assert found.excludes(2) and not found.excludes(3)
    wide = bootstrap(rows, level=0.99)
    assert wide.low < found.low and wide.high > found.high


def test_any_statistic_of_features():
    features = np.random.default_rng(0).normal(size=(100, 3))
    found = bootstrap(features, lambda rows: float(np.cov(rows, rowvar=False)[0, 0]), resamples=50)
    assert found.value == pytest.approx(np.cov(features, rowvar=False)[0, 0])
    assert found.low < found.value < found.high
    again = bootstrap(features, lambda rows: float(np.cov(rows, rowvar=False)[0, 0]), resamples=50)
    assert found == again


def test_pairs_see_what_spread_hides():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 100)
    a, b = hard, hard + 0.5 + rng.normal(0, 0.1, 100)
    assert bootstrap_difference(a, b, resamples=200).excludes(0)
    assert not bootstrap_difference(a, rng.permutation(b), resamples=200).excludes(0)


def test_seeds():
    found = compare_seeds(np.array([1.0, 2, 3]), np.array([2.0, 2.5, 4.5]))
    assert found.differences == (1.0, 0.5, 1.5) and found.mean == 1 and found.same_sign
    np.testing.assert_allclose(found.standard_error, 0.5 / np.sqrt(3))
    assert not compare_seeds(np.zeros(3), np.array([1.0, 1, -0.1])).same_sign
    assert not compare_seeds(np.zeros(3), np.zeros(3)).same_sign


def test_what_says_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 3"):
        compare_seeds(np.zeros(2), np.ones(2))
    for settings in ({"resamples": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match=r"level in \(0, 1\)"):
            bootstrap(np.ones(3), **settings)
    with pytest.raises(ValueError, match="0 examples"):
        bootstrap(np.zeros(0))
