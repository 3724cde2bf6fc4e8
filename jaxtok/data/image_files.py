"""Encoded images to uint8 arrays and back."""

import functools
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxtok.data.errors import BadRecord

# Only these are opened, told apart by their bytes: other formats of Pillow start programs (EPS: Ghostscript).
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
MAX_PIXELS = 89_478_485  # 256 MiB of RGB; also where Pillow begins to warn


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _SUFFIXES if name in Image.OPEN)  # Pillow may be built without some


def decode_image(
    encoded: bytes, channels: int, key: str, *, white: float = 0.0, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, ... upright (EXIF), with transparent parts on white.

    Grey images of more than 8 bits are scaled by what white is in them: 65,535 of 16 bits, 1 of floats.

    Args:
      encoded: The file's bytes.
      channels: 1 for grey, 3 for RGB.
      key: Name of the record, for the error.
      white: What white is in grey images of more than 8 bits; 0 for the usual value.
      max_pixels: Larger images are refused before they are decoded.

    Returns:
      uint8 [H, W, channels].

    Raises:
      BadRecord: The bytes are not an image of a known format; it is truncated or too large; or its values are
        not in the range that its type has.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # whoever allows more than Pillow does says so
    too_large = f"more than {max_pixels:,} pixels; make it smaller, or raise --data.max-pixels"
    try:
        with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
            if image.width * image.height > max_pixels:
                raise BadRecord(key, f"{image.width} x {image.height} is {too_large}")
            return _pixels(ImageOps.exif_transpose(image), channels, key, white)
    except BadRecord:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadRecord(key, too_large) from error
    except UnidentifiedImageError as error:  # its own message is about a BytesIO object
        known = ", ".join(_formats())
        raise BadRecord(key, f"{len(encoded)} bytes in none of the image formats {known}") from error
    # Pillow's decoders raise many types for damaged bytes, SyntaxError and struct.error among them.
    except Exception as error:
        raise BadRecord(key, f"{type(error).__name__}: {error}") from error


def _pixels(image: Image.Image, channels: int, key: str, white: float) -> np.ndarray:
    mode = "L" if channels == 1 else "RGB"
    if image.mode[0] in "IF":  # Pillow would clip what is above 255
        return to_channels(_scaled(np.asarray(image), image, key, white), channels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert(mode))
    return array[..., None] if channels == 1 else array


def _scaled(values: np.ndarray, image: Image.Image, key: str, white: float) -> np.ndarray:
    """Grey [H, W] of more than 8 bits -> uint8 [H, W].

    A 16-bit image that uses less than a sixteenth of its range most likely holds 12 bits, and a float image
    above 1 most likely holds 0 to 255; both would be black or white, so neither is guessed.
    """
    deep = image.mode.startswith("I;16") or image.format == "PNG"  # a PNG has no more than 16 bits
    usual = 65535.0 if deep else 1.0 if image.mode == "F" else 0.0
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    remedy = "say what white is with --data.white, or convert it to 8 bits"
    kind = f"{image.mode} image with values from {lowest:g} to {highest:g}"
    if not white and not usual:
        raise BadRecord(key, f"{kind}, whose type does not say what white is; {remedy}")
    if not white and deep and 0 < highest < 4096:
        raise BadRecord(
            key, f"{kind} would be black as 16 bits; {remedy} (4095 for 12 bits, 65535 if it is right)"
        )
    if not white and deep:
        return (values >> 8).astype(np.uint8)
    white = white or usual
    if not (lowest >= 0 and highest <= white):  # NaN fails too
        raise BadRecord(key, f"{kind}, but white is {white:g}; {remedy}")
    return np.round(values.astype(np.float64) * (255 / white)).astype(np.uint8)


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
