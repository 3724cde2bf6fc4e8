"""How far two sets of images are apart, as the distance of two Gaussians (Frechet distance)."""

import numpy as np
from jaxtyping import Float, UInt8

from jaxtok.evaluate.judge import SIDE, area_resize, real_digits
from jaxtok.evaluate.protocol import Result


def frechet_distance(x: Float[np.ndarray, "A D"], y: Float[np.ndarray, "B D"]) -> float:
    """Squared Frechet distance of the Gaussians with the means and covariances of two sets of features,

        |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))

    which is 0 for equal sets (arXiv 1706.08500). Unlike a class accuracy it sees variety, and whether the
    parts of an image fit together.

    Raises:
      ValueError: fewer than two rows in a set.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"sets of {len(x)} and {len(y)} rows; a covariance needs at least two")
    means = np.mean(x, axis=0), np.mean(y, axis=0)
    first, second = (np.cov(rows, rowvar=False, dtype=np.float64) for rows in (x, y))
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    # The product's eigenvalues are those of a positive semi-definite matrix, up to rounding.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0.0))
    between = np.sum(np.square(means[0] - means[1]))
    return float(max(between + np.trace(first) + np.trace(second) - 2 * np.sum(roots), 0.0))


def digit_frechet(images: UInt8[np.ndarray, "B H W C"]) -> Result:
    """Frechet distance of the pixels, in [0, 1] and 8 x 8, of digits to those of all real training digits."""
    real = real_digits("train")[0]
    distance = frechet_distance(*(_rows(part) for part in (images, real)))
    return Result("frechet_digits_pixels", distance, {"images": len(images), "real_images": len(real)})


def _rows(images):
    return np.mean(area_resize(images, SIDE), axis=-1).reshape(len(images), -1) / 255
