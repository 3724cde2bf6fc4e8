"""How far two sets of features are apart, as the distance of two Gaussians (Frechet distance, 1706.08500).

    d = |m_1 - m_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))

with means m and covariances S. FID, sFID, rFID, gFID, pFID and FVD are this number of different features of
different images; the functions here take features [N, D] of anything (images, video clips, motions). All in
float64. Covariances divide by N - 1 (`ddof` = 1) by default; some implementations of FVD divide by N.

The trace of the root is the sum of singular values of L_1^T L_2 where S = L L^T: no root is taken of rounding
errors, and a singular covariance (N <= D) is no special case.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jaxtok.codes import Array
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.resizing import area_resize
from jaxtok.evaluate.streaming import batch_mask


class Gaussian(NamedTuple):
    """A normal distribution.

    Attributes:
      mean: float64 [D].
      covariance: float64 [D, D].
    """

    mean: np.ndarray
    covariance: np.ndarray


class Frechet(NamedTuple):
    """A squared Frechet distance by its two parts, both at least 0.

    Attributes:
      mean: `|m_1 - m_2|^2`.
      covariance: `tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))`.
    """

    mean: float
    covariance: float

    @property
    def value(self) -> float:
        """The distance."""
        return self.mean + self.covariance


class Moments:
    """Mean and covariance of features over any number of batches, in float64.

    Batches are combined by the update of Chan, Golub and LeVeque (1979), which adds squares of differences to
    running means; so nothing cancels where the mean is far larger than the deviation. Rows that the mask
    excludes leave no trace. Accumulators of shards or processes are combined with `merge`.

    Args:
      width: D.
    """

    def __init__(self, width: int):
        if width < 1:
            raise ValueError(f"width={width}: features have at least one dimension")
        self.count, self.mean = 0, np.zeros(width)
        self._scatter = np.zeros((width, width))

    def update(self, features: Float[Array, "B D"], mask: Array | None = None) -> None:
        """Adds a batch.

        Args:
          features: any real dtype.
          mask: bool [B], False for padding rows; None keeps all.

        Raises:
          ValueError: another width, or features that are not finite.
        """
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"features of shape {rows.shape}: these moments take [B, {len(self.mean)}]")
        rows = rows[batch_mask(mask, len(rows))]
        if not len(rows):
            return
        if not np.isfinite(rows).all():
            raise ValueError(
                f"{int((~np.isfinite(rows)).any(axis=1).sum())} of {len(rows)} rows of features are not "
                "finite; look at the images that they come from"
            )
        mean = rows.mean(axis=0)
        centred = rows - mean
        self._add(len(rows), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> None:
        """Adds everything that another accumulator has seen.

        Raises:
          ValueError: it has another width.
        """
        if len(other.mean) != len(self.mean):
            raise ValueError(f"moments of {len(self.mean)} and {len(other.mean)} dimensions cannot be merged")
        if other.count:
            self._add(other.count, other.mean, other._scatter)

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total, apart = self.count + count, mean - self.mean
        self._scatter += scatter + np.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def gaussian(self, ddof: int = 1) -> Gaussian:
        """Mean, and covariance divided by `count - ddof`.

        Raises:
          ValueError: fewer than two rows.
        """
        if self.count < 2 or self.count <= ddof:
            raise ValueError(f"{self.count} rows; a covariance needs at least two")
        return Gaussian(self.mean.copy(), self._scatter / (self.count - ddof))


def moments_of(features: Float[np.ndarray, "N D"]) -> Moments:
    """The moments of a whole set."""
    moments = Moments(features.shape[-1])
    moments.update(features)
    return moments


def frechet(a: Gaussian, b: Gaussian) -> Frechet:
    """Squared Frechet distance of two Gaussians, by its parts.

    Raises:
      ValueError: they differ in dimension.
    """
    if np.shape(a.covariance) != np.shape(b.covariance) or np.shape(a.mean) != np.shape(b.mean):
        raise ValueError(
            f"Gaussians of {np.size(a.mean)} and {np.size(b.mean)} dimensions; both sides need the same "
            "feature network"
        )
    between = float(np.sum(np.square(np.subtract(a.mean, b.mean, dtype=np.float64))))
    roots = np.linalg.svd(_root(a.covariance).T @ _root(b.covariance), compute_uv=False)
    spread = float(np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sum(roots))
    return Frechet(between, max(spread, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """L with L L^T the covariance; negative eigenvalues are rounding errors."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return vectors * np.sqrt(np.maximum(values, 0.0))


def frechet_distance(x: Float[np.ndarray, "A D"], y: Float[np.ndarray, "B E"], *, ddof: int = 1) -> float:
    """Squared Frechet distance of the Gaussians with the means and covariances of two sets of features.

    It is 0 for equal sets. Unlike a class accuracy it sees variety, and whether the parts of an image fit
    together. It is biased upwards by about 1/N: compare only numbers of sets of one size.

    Args:
      x, y: features.
      ddof: covariances divide by N - ddof.

    Raises:
      ValueError: fewer than two rows in a set, or sets of different widths.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"sets of {len(x)} and {len(y)} rows; a covariance needs at least two")
    return frechet(moments_of(x).gaussian(ddof), moments_of(y).gaussian(ddof)).value


def digit_frechet(images: UInt8[np.ndarray, "B H W C"]) -> Result:
    """Frechet distance of the pixels, in [0, 1] and 8 x 8, of digits to those of all real training digits."""
    from jaxtok.evaluate.digit_classifier import SIDE, real_digits  # scikit-learn is slow to import

    def rows(pictures):
        return np.mean(area_resize(pictures, SIDE), axis=-1).reshape(len(pictures), -1) / 255

    real = real_digits("train")[0]
    distance = frechet_distance(rows(images), rows(real))
    return Result("frechet_digits_pixels", distance, {"images": len(images), "real_images": len(real)})
