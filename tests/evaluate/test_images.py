import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jaxtok.evaluate import images

# Called as they are, every operation would be compiled alone.
psnr = jax.jit(images.psnr, static_argnames=("data_range", "cap"))
ssim = jax.jit(images.ssim, static_argnames=("data_range", "window", "kind"))


def waves():
    """The two 32x32 images of the evaluation sheet, [1, 32, 32, 1] float64 in [0, 1]."""
    y, x = np.mgrid[0:32, 0:32]
    first = 0.5 + 0.5 * np.sin(0.3 * x) * np.cos(0.2 * y)
    second = np.clip(first + 0.1 * np.sin(1.7 * x + 0.9 * y), 0, 1)
    return first[None, ..., None], second[None, ..., None]


def random_pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, shape)
    return x.astype(np.uint8), np.clip(x + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)


def test_fixtures_in_float64():
    with jax.enable_x64(True):
        x, y = waves()
        np.testing.assert_allclose(psnr(x, y, 1.0), [23.178807001553], atol=1e-9)
        np.testing.assert_allclose(ssim(x, y, 1.0), [0.836555873148], atol=1e-9)
        np.testing.assert_allclose(ssim(x, y, 1.0, kind="uniform"), [0.894860649976], atol=1e-9)


def test_fixtures_in_float32():
    x, y = (jnp.asarray(image, jnp.float32) for image in waves())
    np.testing.assert_allclose(psnr(x, y, 1.0), [23.178807001553], rtol=1e-6)
    np.testing.assert_allclose(ssim(x, y, 1.0), [0.836555873148], atol=1e-6)
    assert ssim(x, y, 1.0).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(3, 16, 20, 3), (2, 11, 11, 1)])
def test_agrees_with_scikit_image(shape):
    x, y = random_pair(shape)
    expected_psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(x, y, strict=True)]
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected_ssim = [
        structural_similarity(a, b, data_range=255, **wang)
        for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True)
    ]
    np.testing.assert_allclose(psnr(x, y, 255), expected_psnr, rtol=1e-5)
    np.testing.assert_allclose(ssim(x, y, 255), expected_ssim, atol=1e-5)


def test_small_images_use_the_largest_odd_window_and_say_so():
    assert [images.ssim_window(side, side) for side in (1, 2, 8, 9, 11, 64)] == [1, 1, 7, 9, 11, 11]
    assert images.ssim_name(8, 8) == "ssim_gauss7"
    x, y = random_pair((1, 8, 8, 1))
    # The window of seven is the middle of the larger Gaussian, renormalised.
    weights = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2
    a, b = x[0, ..., 0] / 255.0, y[0, ..., 0] / 255.0

    def mean(patch):
        return np.sum(window * patch)

    values = []
    for row in range(2):
        for column in range(2):
            p, q = a[row : row + 7, column : column + 7], b[row : row + 7, column : column + 7]
            up, uq = mean(p), mean(q)
            spp, sqq, spq = mean(p * p) - up**2, mean(q * q) - uq**2, mean(p * q) - up * uq
            values.append(
                (2 * up * uq + 1e-4) * (2 * spq + 9e-4) / ((up**2 + uq**2 + 1e-4) * (spp + sqq + 9e-4))
            )
    np.testing.assert_allclose(ssim(x, y, 255), [np.mean(values)], atol=1e-5)


def test_identical_images_get_the_cap_and_one():
    x, _ = random_pair((2, 12, 12, 3))
    np.testing.assert_allclose(psnr(x, x, 255), [100, 100], rtol=1e-6)
    np.testing.assert_allclose(psnr(x, x, 255, cap=60), [60, 60], rtol=1e-6)
    np.testing.assert_allclose(ssim(x, x, 255), [1, 1], atol=1e-6)


def test_range_does_not_matter_when_it_is_stated():
    x, y = random_pair((2, 16, 16, 1))
    unit = [side / np.float32(255) for side in (x, y)]
    symmetric = [side / np.float32(127.5) - 1 for side in (x, y)]
    np.testing.assert_allclose(psnr(*symmetric, 2), psnr(x, y, 255), rtol=1e-5)
    np.testing.assert_allclose(psnr(*unit, 1), psnr(x, y, 255), rtol=1e-5)
    np.testing.assert_allclose(ssim(*unit, 1), ssim(x, y, 255), atol=1e-5)


def test_bad_input_is_named():
    x, y = random_pair((1, 8, 8, 1))
    with pytest.raises(ValueError, match="shapes must be equal"):
        psnr(np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 3)), 1.0)
    with pytest.raises(ValueError, match="odd window of at most 8"):
        ssim(x, y, 255, window=11)
    with pytest.raises(ValueError, match="dtype int32"):
        images.to_uint8(np.zeros((1, 2, 2, 1), np.int32))
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8(np.full((1, 2, 2, 1), np.nan, np.float32))


def test_to_uint8_inverts_the_internal_range():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    inside = levels.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(images.to_uint8(inside), levels)
    np.testing.assert_array_equal(images.to_uint8(jnp.array([[[[-9.0]], [[9.0]]]])).ravel(), [0, 255])


def test_meter_does_not_depend_on_batches_or_padding():
    x, y = random_pair((7, 8, 8, 1))
    whole = images.ReconstructionMeter()
    whole.update(x, y)
    padded = images.ReconstructionMeter()
    for start in (0, 4):
        part = [
            np.concatenate([side[start : start + 4], np.zeros((4, 8, 8, 1), np.uint8)])[:4] for side in (x, y)
        ]
        padded.update(*part, mask=np.arange(start, start + 4) < 7)
    for a, b in zip(whole.results(split="test"), padded.results(split="test"), strict=True):
        assert a.name == b.name and a.protocol == b.protocol
        np.testing.assert_allclose(a.value, b.value, rtol=1e-6)
    assert [result.name for result in whole.results()] == ["psnr_uint8", "ssim_gauss7_uint8"]
    assert whole.results()[1].protocol["window"] == 7
    assert whole.results()[0].protocol["images"] == 7


def test_meter_refuses_mixed_sizes_and_no_images():
    meter = images.ReconstructionMeter()
    with pytest.raises(ValueError, match="no images"):
        meter.results()
    meter.update(*random_pair((2, 8, 8, 1)))
    with pytest.raises(ValueError, match="one meter per image size"):
        meter.update(*random_pair((2, 9, 9, 1)))


def test_meters_of_two_hosts_merge():
    x, y = random_pair((6, 8, 8, 1))
    whole, left, right = (images.ReconstructionMeter() for _ in range(3))
    whole.update(x, y)
    left.update(x[:2], y[:2])
    right.update(x[2:], y[2:])
    left.merge(right)
    for a, b in zip(whole.results(), left.results(), strict=True):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-6)
