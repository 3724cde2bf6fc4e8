"""Fits without gradients: an estimator that is updated batch by batch (k-means, counts, moments)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxtok import keys as random
from jaxtok.kernels import code_statistics, nearest_code
from jaxtok.train.stage import State


@runtime_checkable
class Estimator(Protocol):
    """What `streaming_estimator` fits."""

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> Any:
        """Parameters to begin with."""
        ...

    def update(
        self, params: Any, batch: Any, frozen: Any, keys: jax.Array
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Parameters after one more batch, and metrics; one key per example."""
        ...


@dataclasses.dataclass(frozen=True)
class StreamingUpdate:
    """`Update` of an estimator, see `streaming_estimator`.

    Attributes:
      estimator: what is fitted.
    """

    estimator: Estimator

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> State:
        """The estimator's first parameters."""
        return {"step": jnp.int32(0), "params": self.estimator.init(key, batch, frozen)}

    def __call__(
        self, state: State, batch: Any, frozen: Any, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """One more batch."""
        size = jax.tree.leaves(batch)[0].shape[0]
        keys = random.example_keys(jax.random.fold_in(key, state["step"]), size)
        params, metrics = self.estimator.update(state["params"], batch, frozen, keys)
        return {"step": state["step"] + 1, "params": params}, metrics


def streaming_estimator(estimator: Estimator) -> StreamingUpdate:
    """The update that fits an estimator batch by batch."""
    return StreamingUpdate(estimator)


@dataclasses.dataclass(frozen=True)
class KMeans:
    """Mini-batch k-means (Sculley 2010): each centre is the running mean of the points that were ever
    assigned to it.

    Attributes:
      clusters: K.
      features: `(batch, frozen) -> float [M, D]`, M at least K.
    """

    clusters: int
    features: Callable[[Any, Any], jax.Array]

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> dict[str, jax.Array]:
        """K different points of the first batch.

        Raises:
          ValueError: the batch has fewer points than clusters.
        """
        points = self.features(batch, frozen).astype(jnp.float32)
        if points.shape[0] < self.clusters:
            raise ValueError(
                f"{points.shape[0]} points in the first batch, {self.clusters} clusters; use a larger batch"
            )
        chosen = jax.random.choice(key, points.shape[0], (self.clusters,), replace=False)
        return {"centres": points[chosen], "counts": jnp.zeros((self.clusters,), jnp.float32)}

    def update(
        self, params: dict[str, jax.Array], batch: Any, frozen: Any, keys: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Assigns the points and moves their centres."""
        del keys
        points = self.features(batch, frozen).astype(jnp.float32)
        assigned = nearest_code(points, params["centres"])
        counts, sums = code_statistics(points, assigned, self.clusters)
        total = params["counts"] + counts
        centres = jnp.where(
            counts[:, None] > 0,
            (params["centres"] * params["counts"][:, None] + sums) / jnp.maximum(total, 1)[:, None],
            params["centres"],
        )
        inertia = jnp.mean(jnp.sum(jnp.square(points - params["centres"][assigned]), axis=-1))
        return {"centres": centres, "counts": total}, {"inertia": inertia, "usage": jnp.mean(total > 0)}
