import numpy as np
import pytest

from jaxtok.evaluate.frechet import digit_frechet, frechet_distance
from jaxtok.evaluate.judge import real_digits

RANDOM = np.random.default_rng(0)


def test_the_distance_of_gaussians_with_one_axis_each():
    x = np.stack([RANDOM.normal(1, 2, 200_000), RANDOM.normal(0, 1, 200_000)], axis=1)
    y = np.stack([RANDOM.normal(0, 1, 200_000), RANDOM.normal(0, 3, 200_000)], axis=1)
    # Of independent axes: the sum of (difference of means)^2 + (difference of deviations)^2.
    assert frechet_distance(x, y) == pytest.approx(1 + 1 + 4, rel=0.02)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_it_sees_whether_the_parts_fit_together():
    x = RANDOM.normal(size=(10_000, 1)) @ np.ones((1, 2))
    shuffled = np.stack([x[:, 0], RANDOM.permutation(x[:, 1])], axis=1)
    expected = 4 - 2 * np.sqrt(2)  # covariances [[1, 1], [1, 1]] and the identity
    assert frechet_distance(x, shuffled) == pytest.approx(expected, rel=0.05)


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="a covariance needs at least two"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_real_digits_are_near_and_noise_is_far():
    held_out = real_digits("eval")[0]
    near = digit_frechet(held_out)
    far = digit_frechet(RANDOM.integers(0, 256, (297, 8, 8, 1), dtype=np.uint8))
    enlarged = digit_frechet(held_out.repeat(2, 1).repeat(2, 2))
    assert near.value < 0.2 < 5 < far.value and near.protocol["real_images"] == 1500
    assert enlarged.value == pytest.approx(near.value)
