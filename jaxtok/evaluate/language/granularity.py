"""What a token stands for: whole scenes, objects or their parts."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int
from sklearn.metrics import mutual_info_score

from jaxtok.codes import Array
from jaxtok.evaluate.counts import entropy_nats


@dataclasses.dataclass(frozen=True)
class Granularity:
    """How tokens and labels of their cells go together.

    Attributes:
      purity: mean over tokens of the share of their type's most frequent label.
      information: of token and label, in bits (plug-in: compare with the shuffled one).
      label_entropy, token_entropy: in bits.
      shuffled_purity, shuffled_information: the same after a shuffle of the labels.
      cells: how many.
    """

    purity: float
    information: float
    label_entropy: float
    token_entropy: float
    shuffled_purity: float
    shuffled_information: float
    cells: int

    @property
    def nmi(self) -> float:
        """Share of the label's entropy that the token explains; 0 of a label that never changes."""
        return self.information / self.label_entropy if self.label_entropy > 0 else 0.0

    @property
    def adjusted_nmi(self) -> float:
        """The same beyond what a shuffle of as many cells and types has by chance."""
        rest = self.label_entropy - self.shuffled_information
        return (self.information - self.shuffled_information) / rest if rest > 0 else 0.0


def cell_labels(labels: Int[Array, "B H W"], height: int, width: int) -> Int[np.ndarray, "B N"]:
    """The label that most pixels of each token's cell have (ties: the smallest), row by row.

    Args:
      labels: of pixels, such as numbers of objects or parts.
      height, width: of the grid of tokens; they divide the image.

    Raises:
      ValueError: they do not divide it.
    """
    labels = np.asarray(labels)
    batch, rows, columns = labels.shape
    if rows % height or columns % width:
        raise ValueError(f"label maps of {rows}x{columns} do not divide into {height}x{width} cells")
    cells = labels.reshape(batch, height, rows // height, width, columns // width)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(batch, height * width, -1)
    values = np.unique(labels)
    votes = np.stack([np.sum(cells == value, axis=-1) for value in values], axis=-1)
    return values[votes.argmax(axis=-1)]


def granularity(
    tokens: Int[Array, "B N"],
    labels: Int[Array, "..."],
    mask: Bool[Array, "..."] | None = None,
    *,
    seed: int = 0,
) -> Granularity:
    """Purity and information of tokens about labels.

    Args:
      tokens: ids.
      labels: [B, N] of their cells (`cell_labels`), or [B] of whole images.
      mask: cells that count, for example those with an object.
      seed: of the shuffle, which keeps labels of an image together where they are [B].

    Raises:
      ValueError: labels of another shape, or no cells.
    """
    tokens, labels = np.asarray(tokens), np.asarray(labels)
    if labels.shape not in (tokens.shape, tokens.shape[:1]):
        raise ValueError(
            f"labels of shape {labels.shape} for tokens of shape {tokens.shape}; use [B] or [B, N]"
        )
    kept = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask)
    if not kept.any():
        raise ValueError("no cells are left to look at; the mask keeps none")
    rng = np.random.default_rng(seed)
    if labels.ndim == 1:
        pairs = [np.broadcast_to(x[:, None], tokens.shape)[kept] for x in (labels, rng.permutation(labels))]
    else:
        pairs = [labels[kept], rng.permutation(labels[kept])]
    types = np.unique(tokens[kept], return_inverse=True)[1]
    found = []
    for own in pairs:
        values = np.unique(own, return_inverse=True)[1]
        joint, counts = np.unique(np.stack([types, values]), axis=1, return_counts=True)
        best = np.zeros(types.max() + 1, np.int64)
        np.maximum.at(best, joint[0], counts)
        found.append((best.sum() / len(types), mutual_info_score(values, types) / np.log(2)))
    (purity, information), (by_chance, chance_information) = found
    return Granularity(
        float(purity),
        float(information),
        _entropy_bits(pairs[0]),
        _entropy_bits(types),
        float(by_chance),
        float(chance_information),
        len(types),
    )


def _entropy_bits(values: np.ndarray) -> float:
    return float(entropy_nats(np.unique(values, return_counts=True)[1]) / np.log(2))
