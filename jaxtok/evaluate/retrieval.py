"""Does every text find its own item among others? For embeddings of any two modalities in one space."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxtok.codes import Array


class Matching(NamedTuple):
    """How well pairs are found.

    Attributes:
      precision: share of texts whose own item is among the k nearest, for k = 1, 2, ...
      distance: mean Euclidean distance of the pairs; lower is better.
    """

    precision: tuple[float, ...]
    distance: float


def r_precision(
    texts: Float[Array, "N D"], items: Float[Array, "M E"], *, pool: int = 32, top: int = 3
) -> Matching:
    """R-precision and matching distance (HumanML3D; CLIP-R-precision with pools of 100), float64.

    Each text is compared with the items of its pool: its own and those of the other rows. The number depends
    on the pool, which belongs to the protocol, and on how rows are shuffled before.

    Args:
      texts: embeddings.
      items: row i belongs to text i.
      pool: rows that are compared with each other, consecutive ones; rows that fill no pool are left out.
      top: the largest k.

    Raises:
      ValueError: other numbers of rows, no whole pool, or a k beyond it.
    """
    a, b = np.asarray(texts, np.float64), np.asarray(items, np.float64)
    if a.shape != b.shape or not 1 <= top <= pool <= len(a):
        raise ValueError(
            f"texts {a.shape} and items {b.shape} in pools of {pool} with top={top}: shapes must be equal, "
            "and 1 <= top <= pool <= rows"
        )
    hits, own = np.zeros(top), []
    pools = len(a) // pool
    for start in range(0, pools * pool, pool):
        x, y = a[start : start + pool], b[start : start + pool]
        squares = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1) - 2 * x @ y.T
        distances = np.sqrt(np.maximum(squares, 0.0))
        pairs = np.diagonal(distances)
        own.append(pairs)
        # Of equal distances the others come first: a tie is no find.
        rank = np.sum(distances <= pairs[:, None], axis=1) - 1
        hits += [np.sum(rank < k) for k in range(1, top + 1)]
    return Matching(tuple(float(hit) for hit in hits / (pools * pool)), float(np.mean(own)))
