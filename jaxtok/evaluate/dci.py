"""DCI: disentanglement, completeness and informativeness by random forests (Eastwood & Williams, ICLR 2018).

Kept for comparison with older work; `jaxtok.evaluate.infomec` is the better-founded measure.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Num, Shaped
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from jaxtok.codes import Array
from jaxtok.evaluate.protocol import Result


def disentanglement(importance: Float[np.ndarray, "Z S"]) -> float:
    """1 - entropy (in units of log S) of each latent's importance over the sources, weighted by the latent's
    share of all importance. In [0, 1]; 0 where nothing is important, 1 of a single source.

    Args:
      importance: of each latent for each source, not negative.
    """
    return _concentration(importance)


def completeness(importance: Float[np.ndarray, "Z S"]) -> float:
    """The same of each source over the latents."""
    return _concentration(importance.T)


def _concentration(importance: np.ndarray) -> float:
    choices, totals = importance.shape[1], importance.sum(axis=1)
    rows = importance[totals > 0]
    if not len(rows):
        return 0.0
    if choices == 1:
        return 1.0
    p = rows / rows.sum(axis=1, keepdims=True)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1) / np.log(choices)
    return float(np.sum((1 - entropy) * rows.sum(axis=1)) / rows.sum())


@dataclasses.dataclass(frozen=True)
class DCI:
    """The three numbers.

    Attributes:
      disentanglement, completeness, informativeness: the last is held-out accuracy, mean over sources.
      importance: float64 [Z, S]; every source's column sums to 1.
      protocol: how it was measured.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray
    protocol: dict[str, Any]

    def results(self, **protocol: Any) -> list[Result]:
        """`dci_disentanglement`, `dci_completeness`, `dci_informativeness`; higher is better."""
        names = ("disentanglement", "completeness", "informativeness")
        return [Result(f"dci_{name}", getattr(self, name), {**self.protocol, **protocol}) for name in names]


def dci(
    sources: Shaped[Array, "..."],
    latents: Num[Array, "..."],
    *,
    trees: int = 100,
    max_depth: int | None = 10,
    held_out: float = 0.1,
    seed: int = 0,
) -> DCI:
    """Fits a random forest (criterion entropy) per source.

    Args:
      sources: [B, S], labels of the factors of variation.
      latents: [B, Z], one scalar per latent. Codes are taken as numbers; trees split them anywhere.
      trees, max_depth: of each forest.
      held_out: share of the samples on which informativeness is measured.
      seed: of the forests and of the split.

    Raises:
      ValueError: other numbers of samples, or a source with fewer than two values.
    """
    sources, latents = np.asarray(sources), np.asarray(latents)
    if sources.ndim != 2 or latents.ndim != 2 or len(sources) != len(latents):
        raise ValueError(
            f"sources of shape {sources.shape} and latents of shape {latents.shape}; give [B, S] and [B, Z]"
        )
    features = StandardScaler().fit_transform(latents.astype(np.float64))
    importance, accuracies = [], []
    for number in range(sources.shape[1]):
        values, labels = np.unique(sources[:, number], return_inverse=True)
        if len(values) < 2:
            raise ValueError(f"source {number} is always {values[0]!r}; leave it out")
        train_x, test_x, train_y, test_y = train_test_split(
            features, labels, test_size=held_out, random_state=seed
        )
        forest = RandomForestClassifier(
            trees, criterion="entropy", max_depth=max_depth, random_state=seed
        ).fit(train_x, train_y)
        importance.append(forest.feature_importances_)
        accuracies.append(np.mean(forest.predict(test_x) == test_y))
    table = np.stack(importance, axis=1)
    protocol = {
        "samples": len(latents),
        "sources": sources.shape[1],
        "latents": latents.shape[1],
        "forest": f"{trees} trees, entropy, depth {max_depth}",
        "held_out": held_out,
        "seed": seed,
    }
    return DCI(disentanglement(table), completeness(table), float(np.mean(accuracies)), table, protocol)
