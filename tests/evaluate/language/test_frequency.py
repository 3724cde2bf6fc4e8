import numpy as np
import pytest
from scipy import stats

from jaxtok.evaluate.language import frequency as measure
from jaxtok.evaluate.language.power_law import compare_laws, fit_power_law


def test_fixture_of_the_sheet():
    fit = measure.fit_zipf(np.array([1000, 500, 333, 250, 200, 167, 143, 125, 111, 100]))
    np.testing.assert_allclose(fit.slope, -0.999850654, atol=1e-9)
    np.testing.assert_allclose(fit.intercept, 6.907629349, atol=1e-9)
    assert fit.ranks == (1, 10) and fit.r_squared > 0.99999


def test_finds_a_planted_exponent():
    weights = np.arange(1, 1001.0) ** -1.2
    tokens = np.random.default_rng(0).choice(1000, 100_000, p=weights / weights.sum())
    counts = np.bincount(tokens, minlength=1000)
    assert abs(measure.fit_zipf_likelihood(counts).slope + 1.2) < 0.05
    assert abs(measure.fit_zipf(counts, last=100).slope + 1.2) < 0.05


def test_mandelbrot_is_zipf_with_a_shift():
    ranks = np.arange(1, 200)
    fit = measure.fit_zipf_mandelbrot(1e6 * (ranks + 7.5) ** -1.3)
    np.testing.assert_allclose([fit.slope, fit.shift], [-1.3, 7.5], rtol=1e-4)
    plain = measure.fit_zipf_mandelbrot(1e6 / ranks)
    np.testing.assert_allclose([plain.slope, plain.shift], [-1, 0], atol=1e-5)
    with pytest.raises(ValueError, match="at least 3"):
        measure.fit_zipf_mandelbrot(np.array([3, 2]))


def test_ranks_leave_out_what_does_not_occur():
    ranks, frequency = measure.rank_frequency(np.array([0, 3, 1, 0, 9]))
    assert ranks.tolist() == [1, 2, 3] and frequency.tolist() == [9, 3, 1]
    assert measure.hapax_share(np.array([0, 3, 1, 0, 1])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no ranks"):
        measure.rank_frequency(np.zeros(3, int))
    with pytest.raises(ValueError, match="a line needs two"):
        measure.fit_zipf(np.array([5, 4, 3]), first=3)


def test_first_digits():
    counts = np.array([1, 19, 100, 1000, 2, 9, 99, 0])
    np.testing.assert_allclose(measure.first_digits(counts), np.array([4, 1, 0, 0, 0, 0, 0, 0, 2]) / 7)
    powers = np.round(1e3 * 1.01 ** np.arange(1000)).astype(int)  # geometric growth follows Benford's law
    assert measure.benford_deviation(powers) < 0.015
    assert measure.benford_deviation(np.arange(100, 1000)) == pytest.approx(0.0597, abs=1e-3)


def test_a_power_law_is_recovered_and_preferred():
    values = stats.zipf(2.5).rvs(20_000, random_state=0)
    fit = fit_power_law(values, x_min=6)
    assert abs(fit.alpha - 2.5) < 0.1 and fit.tail == np.sum(values >= 6) and fit.distance < 0.03
    free = fit_power_law(values)
    assert free.distance <= fit.distance and abs(free.alpha - 2.5) < 0.25
    against = compare_laws(values, fit)
    assert against["exponential"].statistic > 3 and against["exponential"].p_value < 0.01
    assert against["lognormal"].p_value > 0.01  # a wide lognormal is hard to tell apart


def test_other_laws_are_preferred_where_they_hold():
    rng = np.random.default_rng(0)
    geometric = rng.geometric(0.05, 5000)
    assert compare_laws(geometric, fit_power_law(geometric, x_min=5))["exponential"].statistic < -3
    lognormal = np.round(rng.lognormal(4, 0.5, 5000)).astype(int)
    against = compare_laws(lognormal, fit_power_law(lognormal, x_min=10))["lognormal"]
    assert against.statistic < -3 and against.ratio < 0 and against.p_value < 1e-3


def test_distance_is_that_of_two_step_functions():
    values = np.array([2, 2, 3, 7])
    fit = fit_power_law(values, x_min=2)
    grid = np.arange(2, 200)
    p = grid**-fit.alpha / np.sum(np.arange(2, 200_000.0) ** -fit.alpha)
    seen = np.array([np.mean(values <= x) for x in grid])
    np.testing.assert_allclose(fit.distance, np.abs(seen - np.cumsum(p)).max(), atol=1e-4)
    np.testing.assert_allclose(fit.alpha, 1 + 4 / np.log(values / 1.5).sum())


def test_no_tail_is_refused():
    with pytest.raises(ValueError, match="two different ones"):
        fit_power_law(np.array([3, 3, 3]))
    with pytest.raises(ValueError, match="positive whole numbers"):
        fit_power_law(np.array([3, 0]))
