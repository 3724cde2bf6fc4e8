"""K-means on frozen features: the codes are clusters of what another network sees (DiGIT, arXiv 2410.12490).

    k(z) = argmin_k |z - c_k|^2,      c_k = mean of the features that are nearest to it

There is nothing to train: features of a frozen encoder are clustered once and their clusters are the tokens
(also of HuBERT-like units for speech). Features are compared as they are, without normalisation;
`metric="cosine"` compares angles. Three ways to the centres: `initialise` (Lloyd's algorithm on one batch,
which may be a large sample), `update` (mini-batch k-means: each centre is the running mean of all features
ever assigned to it, Sculley 2010), or `from_centres`, for centres from elsewhere such as
`jaxtok.train.streaming_estimator.KMeans` or a file.

    >>> import jax
    >>> from jaxtok.quantize.clustering import KMeansQuantizer
    >>> quantizer = KMeansQuantizer(codes=16, width=8)
    >>> z = jax.random.normal(jax.random.key(0), (4, 64, 8))
    >>> state = quantizer.init(jax.random.key(1), z)["quantizer"]
    >>> state = quantizer.initialise(state, z, jax.random.key(2))
    >>> out = quantizer.apply({"quantizer": state}, z)
    >>> out.codes.shape, int((out.statistics["counts"] > 0).sum())
    ((4, 64, 1), 16)
    >>> state = quantizer.update(state, out.statistics, jax.random.key(3))
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import Array, CodeSpace, Quantized
from jaxtok.kernels import code_statistics, lookup, nearest_code
from jaxtok.kernels.nearest_code.api import Metric, unit
from jaxtok.quantize.codebook import kmeans, random_points
from jaxtok.quantize.routing import masked, straight_through


def from_centres(
    centres: Float[Array, "K D"], counts: Float[Array, " K"] | None = None
) -> dict[str, jax.Array]:
    """State of a `KMeansQuantizer` with given centres.

    Args:
      centres: of the clusters. (DiGIT's files hold them as [K, D], its checkpoints transposed.)
      counts: how many features each one is the mean of, for `update`; 0 if absent, so that the first features
        assigned to a centre replace it.
    """
    counts = jnp.zeros(centres.shape[0]) if counts is None else jnp.asarray(counts, jnp.float32)
    return {"codebook": jnp.asarray(centres, jnp.float32), "counts": counts}


class KMeansQuantizer(nn.Module):
    """Nearest centre of clusters of frozen features.

    Attributes:
      codes: K, number of clusters.
      width: D of the features.
      metric: "euclidean", or "cosine" for spherical k-means; its centres, and so the values, are unit
        vectors.
    """

    codes: int
    width: int
    metric: Metric = "euclidean"

    @property
    def space(self) -> CodeSpace:
        """One slot of K levels."""
        return CodeSpace((self.codes,))

    def setup(self):
        def start():
            centres = jax.random.normal(self.make_rng("params"), (self.codes, self.width))
            return unit(centres) if self.metric == "cosine" else centres

        self.centres = self.variable("quantizer", "codebook", start).value
        self.variable("quantizer", "counts", lambda: jnp.zeros(self.codes, jnp.float32))

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Quantized:
        """Quantizes features.

        Args:
          z: features.
          train: not used: there is no noise.
          key: not used.
          temperature: not used.
          mask: bool [B, N], True where a token is real. Others get code 0 and zeros, and count nowhere.

        Returns:
          `Quantized` without losses, its gradient straight through; statistics "counts" float32 [K], "sums"
          [K, D] of the assigned features, and "error", the sum of their squared distances to the values.
        """
        del train, key, temperature
        z = masked(z.astype(jnp.float32), mask)
        codes = self._nearest(z)
        chosen = self.decode(codes)
        compared = unit(z) if self.metric == "cosine" else z
        weights = jnp.ones(z.shape[:2]) if mask is None else mask.astype(jnp.float32)
        flat = compared.reshape(-1, self.width), codes.reshape(-1)
        counts, sums = code_statistics(*flat, self.codes, weights=weights.reshape(-1))
        error = jnp.sum(masked(jax.lax.stop_gradient(jnp.square(compared - chosen)), mask))
        statistics = {"counts": counts, "sums": sums, "error": error}
        return Quantized(masked(straight_through(z, chosen), mask), masked(codes, mask), {}, statistics)

    def encode(self, z: Float[jax.Array, "B N D"], mask: jax.Array | None = None) -> Int[jax.Array, "B N 1"]:
        """Nearest centres, int32; 0 where the mask is False."""
        return masked(self._nearest(z.astype(jnp.float32)), mask)

    def decode(self, codes: Int[jax.Array, "B N 1"]) -> Float[jax.Array, "B N D"]:
        """Centres, float32."""
        return lookup(self.centres, codes[..., 0])

    @nn.nowrap
    def initialise(
        self,
        state: Any,
        z: Float[jax.Array, "B N D"],
        key: jax.Array,
        mask: jax.Array | None = None,
        iterations: int = 20,
    ) -> Any:
        """State after k-means on a first batch, from random tokens of it.

        Args:
          state: the collection "quantizer".
          z: features.
          key: scalar key.
          mask: bool [B, N] of real tokens.
          iterations: of Lloyd's algorithm.
        """
        points = masked(z, mask).reshape(-1, self.width).astype(jnp.float32)
        weights = None if mask is None else mask.reshape(-1).astype(jnp.float32)
        first = random_points(points, self.codes, key, weights)
        first = unit(first) if self.metric == "cosine" else first
        fitted = kmeans(points, first, iterations, self.metric, weights)
        return {**state, **from_centres(fitted["codebook"], fitted["counts"])}

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """One step of mini-batch k-means: centres become the means of all features ever assigned to them."""
        del key
        before, new = state["counts"], statistics["counts"]
        total = before + new
        mean = (state["codebook"] * before[:, None] + statistics["sums"]) / jnp.maximum(total, 1.0)[:, None]
        mean = unit(mean) if self.metric == "cosine" else mean
        centres = jnp.where(new[:, None] > 0, mean, state["codebook"])
        return {**state, "codebook": centres, "counts": total}

    def _nearest(self, z):
        codes = nearest_code(z.reshape(-1, self.width), self.centres, metric=self.metric)
        return codes.reshape(*z.shape[:-1], 1)
