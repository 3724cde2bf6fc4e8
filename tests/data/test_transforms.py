from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtok.data.transforms import (
    augment,
    center_square,
    flip_horizontal,
    prepare,
    random_resized,
    random_square,
    resample,
)

SIDES = st.integers(1, 60)
SEEDS = st.integers(0, 2**31)


def ramp(height, width):
    """Red is the column, green is the row: a pixel says where it comes from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


@given(SIDES, SIDES, SEEDS)
def test_random_boxes_lie_inside_the_image(height, width, seed):
    for box in (
        random_square(height, width, np.random.default_rng(seed)),
        random_resized(height, width, np.random.default_rng(seed), (0.1, 1.0), (0.5, 2.0)),
    ):
        left, top, box_width, box_height = box
        assert left >= 0 and top >= 0 and box_width > 0 and box_height > 0
        assert left + box_width <= width + 1e-9 and top + box_height <= height + 1e-9


@given(SEEDS)
def test_random_resized_has_the_area_and_shape_asked_for(seed):
    _, _, width, height = random_resized(100, 100, np.random.default_rng(seed), (0.2, 0.4), (0.8, 1.25))
    assert 0.2 - 1e-9 <= width * height / 100**2 <= 0.4 + 1e-9
    assert 0.8 - 1e-9 <= width / height <= 1.25 + 1e-9


def test_random_places_reach_both_ends():
    lefts = [random_square(10, 30, np.random.default_rng(seed))[0] for seed in range(200)]
    assert min(lefts) < 1 and max(lefts) > 19


def test_center_square_is_centred():
    assert center_square(10, 30) == (10.0, 0.0, 10.0, 10.0)
    assert center_square(30, 10) == (0.0, 10.0, 10.0, 10.0)


def test_resize_reads_only_the_box():
    image = ramp(40, 60)
    np.testing.assert_array_equal(resample(image, 8, "nearest", (20.0, 10.0, 8.0, 8.0)), image[10:18, 20:28])


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_keeps_flat_images_and_identity(filter, channels):
    flat = np.full((7, 11, channels), 93, np.uint8)
    resized = resample(flat, 5, filter)
    assert resized.shape == (5, 5, channels) and resized.dtype == np.uint8 and (resized == 93).all()
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, channels), np.uint8)
    np.testing.assert_array_equal(resample(noise, 6, filter), noise)


def test_filters_differ_and_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))[..., None]
    assert set(np.unique(resample(stripes, 8, "nearest"))) <= {0, 255}
    for filter in ("bilinear", "bicubic", "lanczos"):
        # One step of rounding or ringing away from grey, where aliasing would give black or white.
        assert np.abs(resample(stripes, 8, filter)[:, 2:-2].astype(int) - 127).max() < 20
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 1), np.uint8)
    results = {
        resample(noise, 24, filter).tobytes() for filter in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len(results) == 4


def test_flip_mirrors_columns():
    image = ramp(3, 4)
    assert flip_horizontal(image)[0, :, 0].tolist() == [3, 2, 1, 0]
    np.testing.assert_array_equal(flip_horizontal(flip_horizontal(image)), image)


def test_augment_follows_its_generator_and_prepare_has_none():
    image = ramp(40, 60)
    data: Any = {"crop": "random_resized", "flip": True}
    a, b, c = (augment(image, 16, np.random.default_rng(seed), **data) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    np.testing.assert_array_equal(prepare(image, 40), image[:, 10:50])


def test_flips_happen_half_of_the_time():
    image = ramp(4, 4)
    flipped = [augment(image, 4, np.random.default_rng(seed), flip=True)[0, 0, 0] == 3 for seed in range(200)]
    assert 70 < sum(flipped) < 130


def test_the_same_part_at_every_resolution():
    image = ramp(64, 64)
    data: Any = {"crop": "random_resized", "crop_scale": (0.2, 0.3)}
    small, large = (
        augment(image, size, np.random.default_rng(5), **data).mean(axis=(0, 1)) for size in (8, 32)
    )
    np.testing.assert_allclose(small, large, atol=1.0)


def test_no_crop_stretches():
    image = ramp(10, 40)
    stretched = prepare(image, 10, crop="none", resize="nearest")
    assert stretched[0, 0, 0] < 4 and stretched[0, -1, 0] > 35
