"""Encoded images to uint8 arrays and back."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxtok.data.errors import BadRecord

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def decode_image(encoded: bytes, channels: int, key: str) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, ... upright (EXIF), with transparent parts on white.

    Args:
      encoded: The file's bytes.
      channels: 1 for grey, 3 for RGB.
      key: Name of the record, for the error.

    Returns:
      uint8 [H, W, channels].

    Raises:
      BadRecord: The bytes are not an image, or it is truncated or too large to be safe.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _pixels(ImageOps.exif_transpose(image), channels)
    except UnidentifiedImageError as error:  # its own message is about a BytesIO object
        raise BadRecord(key, f"{len(encoded)} bytes in no image format that Pillow knows") from error
    # Pillow's decoders raise many types for damaged bytes, SyntaxError and struct.error among them.
    except Exception as error:
        raise BadRecord(key, f"{type(error).__name__}: {error}") from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        return to_channels((np.asarray(image) >> 8).astype(np.uint8), channels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert(mode))
    return array[..., None] if channels == 1 else array


def encode_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 1 or 3] as the bytes of a PNG (lossless)."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [H, W] or [H, W, 1 or 3] -> uint8 [H, W, channels]; grey is ITU-R 601 luma, as in Pillow."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]
