import numpy as np
import pytest

from jaxtok.nn.images import to_float, to_uint8


def test_every_byte_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    inside = to_float(pixels)
    assert inside.min() == -1 and inside.max() == 1 and inside.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(inside), pixels)


def test_values_beyond_the_range_are_clipped_on_the_way_out():
    np.testing.assert_array_equal(
        to_uint8(np.array([-3.0, 3.0], np.float32).reshape(1, 2, 1)).ravel(), [0, 255]
    )


def test_pixels_of_another_range_or_dtype_are_refused():
    with pytest.raises(ValueError, match="Pass uint8, or rescale"):
        to_float(np.full((1, 2, 2, 1), 255.0, np.float32))
    with pytest.raises(ValueError, match="int32; expected uint8"):
        to_float(np.zeros((1, 2, 2, 1), np.int32))
