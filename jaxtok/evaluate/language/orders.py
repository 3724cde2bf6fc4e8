"""Ways to read a grid of tokens as a line, and shuffles.

How a grid is read row by row is the main confound of every statistic of sequences: report other orders and
  the
shuffled corpus beside it.
"""

import numpy as np
from jaxtyping import Bool, Int

from jaxtok.codes import Array
from jaxtok.evaluate.language.tokens import full_mask

ORDERS = ("rows", "columns", "hilbert", "random")


def grid_order(kind: str, height: int, width: int, seed: int = 0) -> Int[np.ndarray, " N"]:
    """Positions (row by row) in the order in which they are read: `tokens[:, order]` is the line.

    Args:
      kind: "rows", "columns", "hilbert" (the Hilbert curve of the smallest square of a power of two that
        holds the grid, without the cells outside) or "random" (one permutation for all rows).
      height, width: of the grid.
      seed: of the random one.

    Raises:
      ValueError: an unknown order.
    """
    cells = np.arange(height * width).reshape(height, width)
    if kind == "rows":
        return cells.ravel()
    if kind == "columns":
        return cells.T.ravel()
    if kind == "random":
        return np.random.default_rng(seed).permutation(height * width)
    if kind == "hilbert":
        return np.argsort(_hilbert_index(*np.divmod(cells.ravel(), width), max(height, width)), kind="stable")
    raise ValueError(f"order {kind!r}; choose one of {ORDERS}")


def _hilbert_index(y: np.ndarray, x: np.ndarray, side: int) -> np.ndarray:
    """Distance of cells along the curve: a square is four squares, the first and the last of them turned."""
    index, half = np.zeros_like(x), 1 << max(side - 1, 1).bit_length() - 1
    while half:
        right, down = (x & half) > 0, (y & half) > 0
        index += half * half * ((3 * right) ^ down)
        flipped = right & ~down
        x, y = (
            np.where(flipped, half - 1 - (x & half - 1), x),
            np.where(flipped, half - 1 - (y & half - 1), y),
        )
        x, y = np.where(down, x, y), np.where(down, y, x)
        half //= 2
    return index


def shuffled(
    tokens: Int[Array, "B N"], seed: int = 0, mask: Bool[Array, "..."] | None = None
) -> Int[np.ndarray, "B N"]:
    """The control with the same single tokens: all of the corpus that the mask keeps, in random order."""
    tokens = np.array(tokens)
    kept = full_mask(tokens, mask)
    tokens[kept] = np.random.default_rng(seed).permutation(tokens[kept])
    return tokens
