"""InfoMEC: do single latents stand for single factors of variation (arXiv 2305.18378)?

Modularity (InfoM): each latent knows about one source only. Explicitness (InfoE): the sources can be read
from all latents together by a linear map. Compactness (InfoC): each source is in one latent only. Modularity
and compactness are ratios and ignore how much is known at all (a latent that hardly knows its source may
have both equal to 1), so the three belong together. Chance is 0 and perfection 1 for each.

    found = infomec(scenes, codes.reshape(len(codes), -1), discrete=True)
    found.results(split="eval")

Where the published formula divides 0 by 0, a latent (a source) that shares no information with any source
(latent) is left out of the mean. With a single source there is nothing to be mixed up, so InfoM is 1 if any
latent knows it; the same holds for InfoC and a single active latent. If nothing is known, both are 0.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import log_loss, mutual_info_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jaxtok.codes import Array
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.regression import logistic_regression


@dataclasses.dataclass(frozen=True)
class InfoMEC:
    """The three numbers and what they come from.

    Attributes:
      modularity, explicitness, compactness: InfoM, InfoE and InfoC.
      information: float64 [S, Z], the share of each source's entropy that each latent knows.
      active: bool [Z], the latents that count for InfoM and InfoC.
      explicitness_per_source: float64 [S].
      protocol: how it was measured.
    """

    modularity: float
    explicitness: float
    compactness: float
    information: np.ndarray
    active: np.ndarray
    explicitness_per_source: np.ndarray
    protocol: dict[str, Any]

    def results(self, **protocol: Any) -> list[Result]:
        """`infom`, `infoe`, `infoc` (higher is better) and `active_latents`.

        Args:
          **protocol: what this cannot know: data set, split, names of the sources, weights.
        """
        values = {
            "infom": self.modularity,
            "infoe": self.explicitness,
            "infoc": self.compactness,
            "active_latents": int(self.active.sum()),
        }
        return [Result(name, value, {**self.protocol, **protocol}) for name, value in values.items()]


def infomec(
    sources: Shaped[Array, "..."],
    latents: Num[Array, "B Z"],
    *,
    discrete: bool,
    active: str = "published",
    neighbors: int = 10,
    seed: int = 0,
) -> InfoMEC:
    """Measures all three; the paper takes B = 10,000 held-out samples.

    Args:
      sources: [B, S], labels of the factors of variation, integers or strings.
      latents: one scalar per latent. Codes are better than the values they stand for, which rounding may
        split (float32 `x + (q - x)` is not always `q`).
      discrete: whether values of a latent are names (codes) or lie on a line.
      active: see `active_latents`.
      neighbors: of the estimator of continuous information.
      seed: of the noise that this estimator adds to break ties.

    Raises:
      ValueError: another number of sources than latents, or a source that never changes.
    """
    sources, latents = np.asarray(sources), np.asarray(latents)
    information = normalized_information(sources, latents, discrete=discrete, neighbors=neighbors, seed=seed)
    kept = active_latents(latents, discrete=discrete, rule=active)
    per_source = explicitness(sources, latents, discrete=discrete)
    protocol: dict[str, Any] = {
        "samples": len(latents),
        "sources": sources.shape[1],
        "latents": latents.shape[1],
        "latent_values": "discrete" if discrete else "continuous",
        "active": active,
        "regression": "logistic, no penalty, balanced, lbfgs, 100 iterations, fitted and scored on all",
    }
    if not discrete:
        protocol |= {"estimator": "nearest neighbours (Ross 2014)", "neighbors": neighbors, "seed": seed}
    return InfoMEC(
        modularity(information[:, kept]),
        float(per_source.mean()),
        compactness(information[:, kept]),
        information,
        kept,
        per_source,
        protocol,
    )


def normalized_information(
    sources: Shaped[np.ndarray, "..."],
    latents: Num[np.ndarray, "B Z"],
    *,
    discrete: bool,
    neighbors: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, "S Z"]:
    """`I(source; latent) / H(source)`: plug-in estimates of discrete latents, and the nearest-neighbour
    estimate (Ross 2014) of standardised continuous ones, which may be off by a few hundredths.

    Raises:
      ValueError: see `infomec`.
    """
    labels = _source_labels(sources, len(latents))
    entropies = np.array([mutual_info_score(column, column) for column in labels])
    if discrete:
        columns = _labels(latents, len(latents))
        shared = np.array([[mutual_info_score(s, z) for z in columns] for s in labels])
    else:
        scaled = StandardScaler().fit_transform(latents.astype(np.float64))
        # Without this flag all dense features count as continuous.
        shared = np.array(
            [mutual_info_classif(scaled, s, n_neighbors=neighbors, random_state=seed) for s in labels]
        )
    return shared.reshape(len(labels), latents.shape[1]) / entropies[:, None]


def active_latents(
    latents: Num[np.ndarray, "B Z"], *, discrete: bool, rule: str = "published"
) -> Bool[np.ndarray, " Z"]:
    """Which latents are used at all.

    Args:
      latents: the latents.
      discrete: whether their values are names.
      rule: "published": those that change (discrete), or whose range is over a twentieth of the widest
        (continuous). "training": over an eighth of the widest for both, what the authors log while training.
        "tripod" (arXiv 2404.10282): interquartile range over 0.1 (discrete; latents in [-1, 1], or codes), or
        over a tenth of the widest.

    Raises:
      ValueError: an unknown rule.
    """
    values = latents.astype(np.float64)
    if rule == "tripod":
        low, high = np.quantile(values, [0.25, 0.75], axis=0)
        spread = high - low
        return spread > (0.1 if discrete else spread.max() / 10)
    if rule not in ("published", "training"):
        raise ValueError(f"rule={rule!r}; choose 'published', 'training' or 'tripod'")
    spread = np.ptp(values, axis=0)
    if rule == "training":
        return spread > spread.max() / 8
    return spread > (0 if discrete else spread.max() / 20)


def modularity(information: Float[np.ndarray, "S Z"]) -> float:
    """InfoM of the information of active latents: how far the largest share of a latent's information goes
    beyond 1 / S, in units of what remains, on average over latents.
    """
    return _concentration(information)


def compactness(information: Float[np.ndarray, "S Z"]) -> float:
    """InfoC of the information of active latents: the same of every source over latents."""
    return _concentration(information.T)


def _concentration(information: np.ndarray) -> float:
    """Mean over columns of the largest share, 0 for even columns and 1 for those with a single entry."""
    choices, totals = len(information), information.sum(axis=0)
    columns = information[:, totals > 0]
    if columns.size == 0:
        return 0.0
    largest = float(np.mean(columns.max(axis=0) / columns.sum(axis=0)))
    return 1.0 if choices == 1 else (largest - 1 / choices) / (1 - 1 / choices)


def explicitness(
    sources: Shaped[np.ndarray, "B S"], latents: Num[np.ndarray, "B Z"], *, discrete: bool
) -> Float[np.ndarray, " S"]:
    """InfoE of each source: by which share all latents together lower its cross-entropy, read by a
    multinomial logistic regression (balanced, without penalty, at most 100 iterations, so a lower bound).

    The regression that knows nothing predicts all K values of a source alike: its cross-entropy is ln K.

    Args:
      sources: labels.
      latents: one-hot of discrete ones, standardised continuous ones.
      discrete: which they are.

    Raises:
      ValueError: see `infomec`.
    """
    labels = _source_labels(sources, len(latents))
    encoder: Any = OneHotEncoder() if discrete else StandardScaler()
    features = encoder.fit_transform(latents if discrete else latents.astype(np.float64))
    shares = []
    for column in labels:
        model = logistic_regression(features, column, balanced=True)
        null = math.log(column.max() + 1)
        shares.append((null - log_loss(column, model.predict_proba(features))) / null)
    return np.array(shares)


def explicitness_of_values(
    sources: Num[np.ndarray, "B S"], latents: Num[np.ndarray, "B Z"]
) -> Float[np.ndarray, " S"]:
    """The variant for sources that are quantities: R^2 of least squares of each source on all latents.

    Raises:
      ValueError: another number of sources than latents, or a source that never changes.
    """
    _source_labels(sources, len(latents))
    targets = sources - sources.mean(axis=0, dtype=np.float64)
    features = latents - latents.mean(axis=0, dtype=np.float64)
    weights = np.linalg.lstsq(features, targets, rcond=None)[0]
    return 1 - np.sum((targets - features @ weights) ** 2, axis=0) / np.sum(targets**2, axis=0)


def _labels(columns: Any, samples: int) -> list[np.ndarray]:
    """Each column as numbers 0, 1, ... of its sorted values."""
    columns = np.asarray(columns)
    if columns.ndim != 2 or len(columns) != samples or not samples:
        raise ValueError(
            f"sources of shape {columns.shape} for {samples} samples of latents; give [B, S] and [B, Z] with "
            "the same B > 0"
        )
    return [np.unique(columns[:, i], return_inverse=True)[1] for i in range(columns.shape[1])]


def _source_labels(sources: Any, samples: int) -> list[np.ndarray]:
    labels = _labels(sources, samples)
    constant = [number for number, column in enumerate(labels) if not column.any()]
    if constant:
        raise ValueError(
            f"sources {constant} never change, so nothing can be known about them; leave them out"
        )
    return labels
