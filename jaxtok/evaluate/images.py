"""PSNR and SSIM of image batches, and the meter that streams both over a validation set.

Both functions are pure `jax.numpy`, jit-friendly, and compute in float32 (float64 when an input is float64
and x64 is on). Averages over a data set are means of per-image values, accumulated in float64. Reported
numbers compare uint8 images (rounded and clipped, as a saved PNG would be): see `ReconstructionMeter`.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8

from jaxtok.codes import Array
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.streaming import StreamingMean

PSNR_CAP = 100.0  # dB; identical images would give infinity and spoil every average
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def psnr(
    x: Num[Array, "B H W C"], y: Num[Array, "..."], data_range: int | float, *, cap: int | float = PSNR_CAP
) -> Float[Array, " B"]:
    """Peak signal-to-noise ratio per image, `10 log10(data_range^2 / MSE)` in dB, at most `cap`.

    The mean of these values (mean of logs) is what papers report; the log of the mean MSE is never larger.

    Args:
      x: images, any real dtype; clip to the valid range before.
      y: images of the same shape.
      data_range: width of the valid range: 255 for uint8, 2 for [-1, 1], 1 for [0, 1].
      cap: largest value returned, dB; what identical images get.
    """
    x, y = _float_pair(x, y)
    error = jnp.mean(jnp.square(x - y), axis=(1, 2, 3))
    smallest = data_range**2 * 10.0 ** (-cap / 10)
    return 10 * jnp.log10(data_range**2 / jnp.maximum(error, smallest))


def ssim_window(height: int, width: int, largest: int = SSIM_WINDOW) -> int:
    """Side of the SSIM window: 11, or the largest odd number that fits a smaller image (7 for 8x8 digits)."""
    side = min(height, width, largest)
    return side if side % 2 else side - 1


def ssim_name(height: int, width: int) -> str:
    """Name of the SSIM variant that images of this size get, e.g. `ssim_gauss11` or `ssim_gauss7`."""
    return f"ssim_gauss{ssim_window(height, width)}"


def ssim(
    x: Num[Array, "B H W C"],
    y: Num[Array, "..."],
    data_range: int | float,
    *,
    window: int | None = None,
    kind: Literal["gaussian", "uniform"] = "gaussian",
) -> Float[Array, " B"]:
    """Structural similarity per image (Wang et al. 2004, eq. 13), by default with the Gaussian window of the
    paper.

    Gaussian 11x11 of sigma 1.5, positions where the window fits ("valid"), population variances, K1 = 0.01,
    K2 = 0.03; the mean runs over positions and channels. Images with a side under 11 use the largest odd
    window that fits, with the same sigma and renormalised weights: a different metric, so report it under
    `ssim_name`.

    Args:
      x: images, any real dtype.
      y: images of the same shape.
      data_range: width of the valid range, as for `psnr`.
      window: odd side of the window; None chooses `ssim_window`.
      kind: "uniform" is what scikit-image does by default: all weights equal (side 7 by default),
        variances of samples (divided by n - 1). Another metric, too: name it so.

    Returns:
      Values in [-1, 1]; 1 for identical images.

    Raises:
      ValueError: shapes differ, or the window is even or larger than the image.
    """
    x, y = _float_pair(x, y)
    height, width = x.shape[1:3]
    side = ssim_window(height, width, 7 if kind == "uniform" else SSIM_WINDOW) if window is None else window
    if side % 2 == 0 or not 1 <= side <= min(height, width):
        raise ValueError(
            f"window={side}: {height}x{width} images need an odd window of at most {min(height, width)}"
        )

    # Variances do not change when a constant is taken off, and E[x^2] - E[x]^2 in float32 cancels far less
    # afterwards.
    centre = jnp.mean((x + y) / 2, axis=(1, 2), keepdims=True)
    a, b = x - centre, y - centre
    weights = np.ones(side)
    if kind == "gaussian":
        weights = np.exp(-0.5 * ((np.arange(side) - side // 2) / SSIM_SIGMA) ** 2)
    mean_a, mean_b, aa, bb, ab = _filter(jnp.stack([a, b, a * a, b * b, a * b]), weights)
    samples = side**2 / (side**2 - 1) if kind == "uniform" and side > 1 else 1.0
    variance_x, variance_y = samples * (aa - mean_a**2), samples * (bb - mean_b**2)
    covariance = samples * (ab - mean_a * mean_b)
    mean_x, mean_y = mean_a + centre, mean_b + centre

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _filter(maps: Float[Array, "S B H W C"], window: np.ndarray) -> Float[Array, "S B H2 W2 C"]:
    """Weighted means under the product of two equal windows, where it fits, as sums of shifted slices.

    A convolution would run in bfloat16 or TF32 on accelerators by default; element-wise sums never
    do.
    """
    weights = [float(weight) for weight in window / window.sum()]
    for axis in (2, 3):
        size = maps.shape[axis] - len(weights) + 1
        slices = [jax.lax.slice_in_dim(maps, start, start + size, axis=axis) for start in range(len(weights))]
        maps = functools.reduce(jnp.add, map(jnp.multiply, weights, slices))
    return maps


def _float_pair(x: Array, y: Array) -> tuple[jax.Array, jax.Array]:
    if x.shape != y.shape:
        raise ValueError(f"images of shapes {x.shape} and {y.shape} cannot be compared: shapes must be equal")
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def to_uint8(images: Shaped[Array, "B H W C"]) -> UInt8[np.ndarray, "B H W C"]:
    """What a saved picture would hold: floats in [-1, 1] clipped, rescaled and rounded; uint8 unchanged.

    Raises:
      ValueError: another dtype than uint8 or a float, or NaN values (a picture would hide them).
    """
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"images of dtype {array.dtype}: pass uint8, or floats in [-1, 1]")
    array = array.astype(np.float32)
    if np.isnan(array).any():
        raise ValueError(f"{np.isnan(array).sum()} of {array.size} pixel values are NaN: the model diverged")
    return np.round((np.clip(array, -1, 1) + 1) * 127.5).astype(np.uint8)


_psnr_uint8 = jax.jit(lambda x, y: psnr(x, y, 255.0))
_ssim_uint8 = jax.jit(lambda x, y: ssim(x, y, 255.0))


class ReconstructionMeter:
    """Streams PSNR and SSIM of reconstructions over a validation set.

    Both sides are brought to uint8 first, so a model does not score better for values that no picture can
    hold.
    """

    def __init__(self):
        self._psnr, self._ssim = StreamingMean(), StreamingMean()
        self._shape: tuple[int, int, int] | None = None

    def update(
        self,
        originals: Shaped[Array, "B H W C"],
        reconstructions: Shaped[Array, "B H W C"],
        mask: Array | None = None,
    ) -> None:
        """Adds a batch.

        Args:
          originals: uint8, or floats in [-1, 1].
          reconstructions: the same for the reconstructions.
          mask: bool [B], False for padding rows.

        Raises:
          ValueError: shapes differ, or an earlier batch had another image size.
        """
        x, y = to_uint8(originals), to_uint8(reconstructions)
        shape = x.shape[1:]
        if self._shape not in (None, shape):
            raise ValueError(f"images of {shape} after images of {self._shape}: use one meter per image size")
        self._shape = shape
        self._psnr.update(_psnr_uint8(x, y), mask)
        self._ssim.update(_ssim_uint8(x, y), mask)

    def merge(self, other: "ReconstructionMeter") -> None:
        """Adds everything that another meter (another host) has seen.

        Raises:
          ValueError: the other meter saw images of another size.
        """
        if None not in (self._shape, other._shape) and self._shape != other._shape:
            raise ValueError(f"meters of {self._shape} and {other._shape} images cannot be merged")
        self._shape = self._shape or other._shape
        self._psnr.merge(other._psnr)
        self._ssim.merge(other._ssim)

    def results(self, **protocol: Any) -> list[Result]:
        """PSNR (dB) and SSIM, higher is better.

        Args:
          **protocol: what the meter cannot know: data set, split, checkpoint weights (EMA or raw), seed.

        Raises:
          ValueError: no image was seen.
        """
        if self._shape is None:
            raise ValueError("no images were measured: update() was never called")
        height, width, _ = self._shape
        shared = {
            "images": self._psnr.count,
            "size": list(self._shape),
            "pixels": "uint8",
            "average": "mean of per-image values",
            **protocol,
        }
        window = {"window": ssim_window(height, width), "sigma": SSIM_SIGMA, "filter": "gaussian, valid"}
        return [
            Result("psnr_uint8", self._psnr.value, {**shared, "cap_db": PSNR_CAP}),
            Result(f"{ssim_name(height, width)}_uint8", self._ssim.value, {**shared, **window}),
        ]
