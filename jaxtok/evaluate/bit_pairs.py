"""How pairs of bits depend on each other, from sums that add up over batches and hosts."""

import numpy as np
from jaxtyping import Float, Int


class PairCounts:
    """Sums that give the correlation matrix of D bits, in float64 (exact for counts)."""

    def __init__(self, width: int):
        self.width, self.rows = width, 0
        self.ones = np.zeros(width)
        self.both = np.zeros((width, width))

    def update(self, bits: Int[np.ndarray, "R D"]) -> None:
        """Adds rows of D bits."""
        bits = bits.astype(np.float64)
        self.rows += len(bits)
        self.ones += bits.sum(axis=0)
        self.both += bits.T @ bits

    def merge(self, other: "PairCounts") -> None:
        """Adds another accumulator."""
        self.rows += other.rows
        self.ones += other.ones
        self.both += other.both

    def correlation(self) -> Float[np.ndarray, "D D"]:
        """Pearson correlation; 0 where a bit is constant.

        Raises:
          ValueError: no rows were seen.
        """
        if self.rows == 0:
            raise ValueError("correlation of no codes: nothing was added, or every row was masked out")
        # Integer arithmetic until the last step: n * sum(ab) - sum(a) sum(b) is exact in float64, so constant
        # bits give 0.
        covariance = self.rows * self.both - np.outer(self.ones, self.ones)
        deviation = np.sqrt(np.diag(covariance))
        scale = np.outer(deviation, deviation)
        return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def mean_abs_correlation(matrix: Float[np.ndarray, "D D"]) -> float:
    """Mean absolute value off the diagonal; 0 for a single bit."""
    size = len(matrix)
    absolute = np.abs(matrix)
    return float((absolute.sum() - np.trace(absolute)) / max(size * (size - 1), 1))
