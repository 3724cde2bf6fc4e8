import numpy as np
import pytest

from jaxtok.evaluate.digit_classifier import real_digits
from jaxtok.evaluate.frechet import (
    Frechet,
    Gaussian,
    Moments,
    digit_frechet,
    frechet,
    frechet_distance,
    moments_of,
)
from tests.evaluate.sheet import A, B

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


def test_values_of_the_sheet():
    assert frechet_distance(A, B) == pytest.approx(0.050368936408, abs=1e-9)
    assert frechet_distance(A, B, ddof=0) == pytest.approx(0.049729126270, abs=1e-9)
    one = Gaussian(np.zeros(2), np.diag([1.0, 4.0])), Gaussian(np.array([1.0, 2.0]), np.diag([9.0, 1.0]))
    assert frechet(*one) == pytest.approx(Frechet(5.0, 5.0), abs=1e-12) and frechet(*one).value == 10
    spread = np.arange(9).reshape(3, 3) / 10
    x = Gaussian(np.zeros(3), np.eye(3) + spread @ spread.T)
    y = Gaussian(np.array([0.1, -0.2, 0.3]), 2 * np.eye(3) + 0.3)
    assert frechet(x, y).value == pytest.approx(0.586071293352, abs=1e-9)


def test_equal_covariances_leave_the_means():
    wide = np.cov(RANDOM.normal(size=(100, 256)), rowvar=False)  # singular
    found = frechet(Gaussian(np.zeros(256), wide), Gaussian(np.ones(256), wide))
    assert found.mean == 256 and found.covariance <= 1e-9 * np.trace(wide)


def test_symmetry_rotation_and_scale():
    there, back = frechet_distance(A, B), frechet_distance(B, A)
    turn = np.linalg.qr(RANDOM.normal(size=(3, 3)))[0]
    assert back == pytest.approx(there, rel=1e-12)
    assert frechet_distance(A @ turn, B @ turn) == pytest.approx(there, rel=1e-10)
    assert frechet_distance(3 * A, 3 * B) == pytest.approx(9 * there, rel=1e-10)


def test_streamed_moments_equal_those_at_once_whatever_the_batches_padding_and_shards():
    rows = RANDOM.normal(size=(101, 4)) @ RANDOM.normal(size=(4, 4)) + 1e6  # means far above deviations
    padded = np.concatenate([rows, np.full((3, 4), np.nan)])
    shards = [Moments(4), Moments(4), Moments(4)]
    for start in range(0, 104, 8):
        part = padded[start : start + 8]
        shards[start // 8 % 2].update(part, start + np.arange(len(part)) < 101)
    shards[2].update(np.zeros((2, 4)), np.zeros(2, bool))  # a shard of padding alone
    whole = Moments(4)
    for shard in shards:
        whole.merge(shard)
    centred = rows - 1e6
    for ddof in (0, 1):
        found = whole.gaussian(ddof)
        np.testing.assert_allclose(found.mean - 1e6, centred.mean(0), atol=1e-8)
        np.testing.assert_allclose(found.covariance, np.cov(centred, rowvar=False, ddof=ddof), rtol=1e-8)
    assert whole.count == 101
    # Plain sums of float32 features lose all of that.
    single = Moments(4)
    single.update((centred + 1e3).astype(np.float32))
    np.testing.assert_allclose(single.gaussian().covariance, np.cov(centred, rowvar=False), rtol=1e-3)


def test_moments_refuse_what_does_not_fit():
    moments = Moments(3)
    with pytest.raises(ValueError, match=r"these moments take \[B, 3\]"):
        moments.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="1 of 2 rows of features are not finite"):
        moments.update(np.array([[0.0, 1.0, np.inf], [0.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="3 and 4 dimensions cannot be merged"):
        moments.merge(Moments(4))
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        frechet(moments_of(A).gaussian(), moments_of(A[:, :2]).gaussian())


def test_videos_need_nothing_but_other_features():
    """A Frechet video distance with a toy network of space and time in place of I3D."""
    rng = np.random.default_rng(3)
    kernels = rng.normal(size=(6, 3, 5, 5))

    def features(clips):  # [B, T, H, W]: responses of kernels over time and space, pooled
        windows = np.lib.stride_tricks.sliding_window_view(clips, (3, 5, 5), axis=(1, 2, 3))
        return np.maximum(np.einsum("btyxhij,khij->btyxk", windows, kernels), 0).mean((1, 2, 3))

    def clips(count, speed):
        places = np.arange(12) - (rng.uniform(0, 12, count)[:, None] + speed * np.arange(6))[..., None]
        bar = np.cos(np.pi * places / 6) ** 8  # moves along the rows
        return np.repeat(bar[:, :, None, :], 8, axis=2)

    real, like, still = clips(200, 1.5), clips(200, 1.5), clips(200, 0.0)
    streamed = Moments(6)
    for start in range(0, 200, 64):
        streamed.update(features(like[start : start + 64]))
    near = frechet(moments_of(features(real)).gaussian(0), streamed.gaussian(0)).value
    # Frame by frame the still clips are as real ones: only features over time tell.
    assert near < 0.02 * frechet_distance(features(real), features(still), ddof=0)
    frames = [c.reshape(-1, 96)[:, :12] for c in (real, still, like)]
    assert frechet_distance(frames[0], frames[1]) < 10 * frechet_distance(frames[0], frames[2]) + 0.05
