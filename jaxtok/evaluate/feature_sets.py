"""A set of images as its features, and everything that two such sets are compared by."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.codes import Array
from jaxtok.evaluate.distributions import (
    class_score,
    density_coverage,
    kernel_distance,
    precision_recall,
    squared_mmd,
)
from jaxtok.evaluate.features.network import FeatureNetwork
from jaxtok.evaluate.frechet import Moments, frechet
from jaxtok.evaluate.images import to_uint8
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.references import Reference
from jaxtok.evaluate.streaming import batch_mask

log = logging.getLogger(__name__)

KEPT_ROWS = 10_000  # features that are kept for neighbours and kernels; moments see all
NEIGHBOURS, BALLS = 3, 5  # of precision and recall, of density and coverage
_FEW = 5000  # images under which the class score has one split, not ten
_WHOLE = 2000  # images up to which the kernel distance is of all, not of 100 subsets of 1000


class FeatureSet:
    """Streams images through a feature network. Moments are of all images; the first ones' features stay.

    Args:
      network: the feature network.
      keep: how many images' pooled features are kept, for the metrics that need more than moments.
    """

    def __init__(self, network: FeatureNetwork, keep: int = KEPT_ROWS):
        self.network, self.keep = network, keep
        self.size: tuple[int, ...] | None = None
        self.moments: Moments | None = None
        self._spatial: Moments | None = None
        self._rows: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._hash = 0  # a sum, so that neither order nor batches matter

    @property
    def count(self) -> int:
        """Images seen."""
        return 0 if self.moments is None else self.moments.count

    @property
    def rows(self) -> np.ndarray:
        """Pooled features of the first images, at most `keep`, float32 [n, D]."""
        return np.concatenate(self._rows)[: self.keep]

    @property
    def logits(self) -> np.ndarray:
        """Logits of all images, float32 [N, C]."""
        return np.concatenate(self._logits)

    def update(self, images: Array, mask: Array | None = None) -> None:
        """Adds a batch.

        Args:
          images: [B, H, W, C], uint8 or floats in [-1, 1], which are rounded as a saved picture would be.
          mask: bool [B], False for padding rows.
        """
        images = to_uint8(images)
        images = images[batch_mask(mask, len(images))]
        if not len(images):
            return
        for image in np.ascontiguousarray(images):
            self._hash += int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "big")
        found = self.network(images)
        if self.moments is None or self._spatial is None:
            self.size = images.shape[1:]
            self.moments, self._spatial = Moments(found.pooled.shape[1]), Moments(found.spatial.shape[1])
        if sum(map(len, self._rows)) < self.keep:
            self._rows.append(np.asarray(found.pooled))
        self.moments.update(found.pooled)
        self._spatial.update(found.spatial)
        self._logits.append(np.asarray(found.logits))

    def merge(self, other: "FeatureSet") -> None:
        """Adds everything that another set (another shard or process) has seen.

        Raises:
          ValueError: it was seen by another network.
        """
        if other.network.identity != self.network.identity:
            raise ValueError(f"features of {self.network.identity} and of {other.network.identity}")
        if other.moments is None or other._spatial is None:
            return
        if self.moments is None or self._spatial is None:
            self.size = other.size
            self.moments, self._spatial = Moments(len(other.moments.mean)), Moments(len(other._spatial.mean))
        self.moments.merge(other.moments)
        self._spatial.merge(other._spatial)
        self._rows, self._logits = self._rows + other._rows, self._logits + other._logits
        self._hash += other._hash

    def reference(self, name: str) -> Reference:
        """The moments, to be compared with or kept in a file.

        Raises:
          ValueError: fewer than two images.
        """
        if self.moments is None or self._spatial is None:
            raise ValueError("no images were seen: update() was never called")
        gaussians = self.moments.gaussian(), self._spatial.gaussian()
        return Reference(name, *gaussians, self.count, self.network.identity, f"{self._hash % 2**64:016x}")


def frechet_results(
    images: FeatureSet,
    real: Reference,
    prefix: str,
    protocol: Mapping[str, Any],
    suffix: str = "",
    parts: bool = True,
) -> list[Result]:
    """Frechet distance of a set to a reference, its mean and its covariance term, and the spatial distance;
    lower is better. Covariances divide by N - 1.

    Args:
      images: the set.
      real: what it should be like.
      prefix: "r" of reconstructions, "g" of generated images, "p" of perturbed codes.
      protocol: what the set cannot know.
      suffix: end of the names.
      parts: whether the terms and the spatial distance are given too.

    Raises:
      ValueError: the reference was made by another feature network.
    """
    network, found = images.network, images.reference("")
    if real.network and real.network != network.identity:
        raise ValueError(
            f"the reference {real.name!r} was made by {real.network}, the images were seen by "
            f"{network.identity}; make it again with this network"
        )
    width = len(found.features.mean)
    if images.count <= width:
        log.warning(
            "%s of %d images in %d dimensions: the covariance is singular and the distance biased; use more "
            "images",
            network.title("frechet", prefix),
            images.count,
            width,
        )
    shared = {
        "images": images.count,
        **network.protocol,
        **network.caution(images.size),
        "reference": real.name,
        "reference_hash": real.hash,
        "reference_images": real.images,
        "ddof": 1,
        **protocol,
    }

    distance, stated = frechet(found.features, real.features), {**shared, "dimensions": width}
    title = network.title("frechet", prefix)
    rows = [Result(f"{title}{suffix}", distance.value, stated)]
    if not parts:
        return rows
    rows += [
        Result(f"{title}_mean_term{suffix}", distance.mean, stated),
        Result(f"{title}_covariance_term{suffix}", distance.covariance, stated),
    ]
    if real.spatial is not None and found.spatial is not None:
        apart = frechet(found.spatial, real.spatial).value
        stated = {**shared, "dimensions": len(found.spatial.mean)}
        rows.append(Result(f"{network.title('spatial', prefix)}{suffix}", apart, stated))
    return rows


def set_results(
    images: FeatureSet, real: FeatureSet, name: str, prefix: str, protocol: Mapping[str, Any]
) -> list[Result]:
    """Kernel distance (lower is better), precision and recall, density and coverage (higher is better) of a
    set against real images, from the features that both kept.

    Args:
      images: the set.
      real: real images.
      name: which ones.
      prefix: as in `frechet_results`.
      protocol: what the sets cannot know.
    """
    network, ours, theirs = images.network, images.rows, real.rows
    shared = {
        "images": len(ours),
        **network.protocol,
        **network.caution(images.size),
        "reference": name,
        "reference_hash": real.reference(name).hash,
        "reference_images": len(theirs),
        **protocol,
    }
    results, kernel = [], {"kernel": "(a.b/D + 1)^3, unbiased"}
    if min(len(ours), len(theirs)) > 1:
        if max(len(ours), len(theirs)) <= _WHOLE:
            value, kernel = squared_mmd(ours, theirs), {**kernel, "subsets": 1, "subset_size": "all"}
        else:
            size = min(len(ours), len(theirs), 1000)
            value = kernel_distance(ours, theirs, subset_size=size).mean
            kernel = {**kernel, "subsets": 100, "subset_size": size}
        results.append(Result(network.title("kernel", prefix), value, {**shared, **kernel}))
    if min(len(ours), len(theirs)) > BALLS:
        near = precision_recall(ours, theirs, neighbours=NEIGHBOURS)
        balls = density_coverage(ours, theirs, neighbours=BALLS)
        for metric, value, k in (
            ("precision", near.precision, NEIGHBOURS),
            ("recall", near.recall, NEIGHBOURS),
            ("density", balls.density, BALLS),
            ("coverage", balls.coverage, BALLS),
        ):
            title = f"{prefix}_{network.title(metric)}" if prefix != "g" else network.title(metric)
            results.append(Result(title, value, {**shared, "neighbours": k}))
    return results


def score_result(images: FeatureSet, protocol: Mapping[str, Any]) -> Result:
    """The class score (Inception score with Inception), higher is better."""
    splits = 10 if images.count >= _FEW else 1
    network, stated = images.network, {"images": images.count, "splits": splits, "shuffled": True}
    stated |= {**network.protocol, **network.caution(images.size)}
    value = class_score(images.logits, splits=splits).mean
    return Result(network.title("score"), value, {**stated, **protocol})
