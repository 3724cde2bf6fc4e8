import numpy as np
import pytest

from jaxtok.evaluate.language import innovation as measure


def test_heaps_curve_and_fit():
    tokens = np.array([[3, 3, 1], [0, 9, 1]])
    mask = np.array([[True, True, True], [True, False, True]])
    assert measure.heaps_curve(tokens, mask).tolist() == [1, 1, 2, 3, 3]
    constant, beta = measure.fit_heaps(2.0 * np.arange(1, 10_001.0) ** 0.6)
    np.testing.assert_allclose([constant, beta], [2, 0.6])
    with pytest.raises(ValueError, match="at least 2"):
        measure.fit_heaps(np.ones(1))


def test_uniform_tokens_follow_the_coupon_collector():
    tokens = np.random.default_rng(0).integers(0, 200, (400, 5))
    curves = np.mean([measure.heaps_curve(tokens[i::10]) for i in range(10)], axis=0)
    np.testing.assert_allclose(curves, measure.coupon_collector(200, np.arange(1, 201)), rtol=0.04)
    assert measure.coupon_collector(1, np.array([1, 5])).tolist() == [1, 1]


def test_innovation_of_images():
    tokens = np.array([[0, 0], [0, 1], [2, 3], [9, 9]])
    found = measure.innovation_rate(tokens, np.array([True, True, True, False]), orders=50)
    assert found.per_image.shape == (3,) and found.orders == 50
    np.testing.assert_allclose(found.per_image.sum() * 2, 4)  # every type is new once
    assert found.per_image[0] > found.per_image[2]
    assert measure.innovation_rate(np.arange(8).reshape(4, 2)).half == 2
    with pytest.raises(ValueError, match="at least 1"):
        measure.innovation_rate(tokens, orders=0)


def test_yule():
    assert measure.yule_k(np.array([1, 1, 1])) == 0
    np.testing.assert_allclose(measure.yule_k(np.array([3, 2, 0, 1])), 1e4 * (14 - 6) / 36)


@pytest.mark.parametrize("rho", [1.5, 3.0])
def test_yule_simon_is_recovered(rho):
    rng = np.random.default_rng(0)
    # A geometric law whose rate is an exponential variable is Yule and Simon's.
    values = rng.geometric(np.exp(-rng.exponential(1 / rho, 20_000)))
    found, new = measure.fit_yule_simon(values)
    assert abs(found - rho) < 0.1 and new == pytest.approx(1 - 1 / found)
    with pytest.raises(ValueError, match="twice"):
        measure.fit_yule_simon(np.ones(5))
