import io

import numpy as np
import pytest
from PIL import Image

from jaxtok.data.errors import BadRecord
from jaxtok.data.image_files import decode_image, encode_png, to_channels

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def encoded(image, format="png", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(channels):
    image = NOISE[..., :channels]
    np.testing.assert_array_equal(decode_image(encode_png(image), channels, "x"), image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_any_mode_becomes_grey_or_colour(mode):
    data = encoded(Image.fromarray(NOISE).convert(mode), "tiff")
    for channels in (1, 3):
        decoded = decode_image(data, channels, "x")
        assert decoded.shape == (5, 7, channels) and decoded.dtype == np.uint8


def test_sixteen_bits_keep_their_upper_half():
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    assert decode_image(encoded(Image.fromarray(deep)), 1, "x")[0, :, 0].tolist() == [0, 0, 1, 255]


def test_transparent_parts_are_white():
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    decoded = decode_image(encoded(Image.fromarray(clear)), 3, "x")
    assert decoded[0, 0].tolist() == [10, 20, 30] and (decoded[1] == 255).all()


def test_cameras_say_which_side_is_up():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right
    decoded = decode_image(encoded(Image.fromarray(NOISE), exif=exif), 3, "x")
    np.testing.assert_array_equal(decoded, np.rot90(NOISE, -1))


@pytest.mark.parametrize("damage", [b"", b"text", encode_png(NOISE)[:60], encode_png(NOISE)[:-30]])
def test_damage_names_the_record(damage):
    with pytest.raises(BadRecord, match=r"dog\.png: "):
        decode_image(damage, 3, "dog.png")


def test_luma_and_repetition():
    grey = to_channels(NOISE, 1)
    expected = NOISE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - expected).max() <= 1
    assert (to_channels(grey, 3) == grey).all() and to_channels(grey[..., 0], 1).shape == (5, 7, 1)
