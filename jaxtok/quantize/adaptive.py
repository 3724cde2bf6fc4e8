"""Clusters of the tokens of one input, as many as it needs (VQToken, arXiv 2503.16980).

    c_i = argmax_k cos(t_i, b_k),   b_k = mean of t_i with c_i = k      (t_i normalised)

All tokens of a video, N of them, become K cluster means and an index map c [N] that says where each one is.
No codebook is shared between inputs and nothing is learned here: the network that reads means and map
belongs to the system. K is given, or chosen for every input between `least` and `most` where the curve of
distortions bends most, see `elbow`. Shapes are static: `most` means, with a mask of those in use.

Seeding is k-means++ (each next centre is drawn with probability proportional to squared distance plus 1e-6).
A cluster that loses all its tokens keeps its centre while the others move, but is not among those that come
out.

    >>> import jax
    >>> from jaxtok.quantize.adaptive import cluster_tokens
    >>> z = jax.random.normal(jax.random.key(0), (2, 64, 8))
    >>> clusters = cluster_tokens(z, jax.random.key(1), most=12, least=4)
    >>> clusters.centres.shape, clusters.assignment.shape
    ((2, 12, 8), (2, 64))
    >>> clusters.latents().mask.shape
    (2, 12, 1)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok import keys as random
from jaxtok.codes import Latents, pytree_dataclass
from jaxtok.kernels.nearest_code.api import unit

_SMOOTHING = 1e-6  # of squared distances when centres are drawn, as in the released code


@pytree_dataclass()
class TokenClusters:
    """Clusters of the tokens of each input.

    Attributes:
      centres: float32 [B, K, D], means of normalised tokens; zeros where the mask is False.
      mask: bool [B, K], True for clusters that have tokens.
      assignment: int32 [B, N], the cluster of each token; 0 for tokens that are not real.
      counts: float32 [B, K], tokens per cluster.
      distortion: float32 [B], sum of squared distances of tokens to their centres.
    """

    centres: Any
    mask: Any
    assignment: Any
    counts: Any
    distortion: Any

    def latents(self) -> Latents:
        """The centres as continuous latents with a mask."""
        return Latents(values=self.centres, mask=self.mask[..., None])

    def rebuilt(self) -> Float[jax.Array, "B N D"]:
        """Every token replaced by its centre."""
        return jnp.take_along_axis(self.centres, self.assignment[..., None], axis=1)


def cluster_tokens(
    z: Float[jax.Array, "B N D"],
    key: jax.Array,
    most: int,
    least: int | None = None,
    mask: jax.Array | None = None,
    iterations: int = 100,
    shift: int | None = None,
) -> TokenClusters:
    """Clusters the tokens of each input.

    Args:
      z: tokens.
      key: scalar key or one key per example; seeds of the centres.
      most: K, largest number of clusters.
      least: smallest one, for a number per input; None for `most` clusters always.
      mask: bool [B, N], True where a token is real.
      iterations: largest number of Lloyd steps; inputs stop when centres move less than 1e-4.
      shift: of the elbow, see there; 4 does as the released code.

    Returns:
      `TokenClusters`. An input with fewer distinct tokens than clusters leaves clusters empty.

    Raises:
      ValueError: numbers of clusters that cannot be.
    """
    if not 1 <= (most if least is None else least) <= most or (least is not None and most - least < 2):
        raise ValueError(
            f"least={least} and most={most}: the elbow needs at least three numbers of clusters, "
            "1 <= least <= most - 2; least=None for a fixed number"
        )
    uniforms = random.uniform(random.example_keys(key, z.shape[0]), (most,))
    real = jnp.ones(z.shape[:2], bool) if mask is None else mask

    def one(z, real, uniforms):
        x = jnp.where(real[:, None], unit(jnp.where(real[:, None], z, 0.0)), 0.0)
        seeds = seed_centres(x, real, uniforms)
        if least is None:
            return lloyd(x, real, seeds, jnp.arange(most) < most, iterations)
        numbers = jnp.arange(least, most + 1)
        distortions = jax.lax.map(
            lambda k: lloyd(x, real, seeds, jnp.arange(most) < k, iterations).distortion, numbers
        )
        best = elbow(distortions, least, shift)
        return lloyd(x, real, seeds, jnp.arange(most) < best, iterations)

    return jax.vmap(one)(z, real, uniforms)


def elbow(distortions: Float[jax.Array, " R"], least: int, shift: int | None = None) -> jax.Array:
    """Number of clusters where the distortion's decrease falls off most, int32.

        i = argmax_i (d_i - 2 d_(i+1) + d_(i+2)),   K = least + i + 1

    Args:
      distortions: of `least`, `least` + 1, ... clusters, at least three.
      least: smallest number.
      shift: K is max(i + shift, least) instead, limited to the numbers that were tried: the released code
        counts so, with 4, which makes `least` the most frequent answer.
    """
    bend = distortions[:-2] - 2 * distortions[1:-1] + distortions[2:]
    place = jnp.argmax(bend).astype(jnp.int32)
    number = least + place + 1 if shift is None else place + shift
    return jnp.clip(number, least, least + distortions.shape[0] - 1)


def seed_centres(
    x: Float[jax.Array, "N D"], real: jax.Array, uniforms: Float[jax.Array, " K"]
) -> Float[jax.Array, "K D"]:
    """k-means++: the first centre is any token, the next are drawn by squared distance to the nearest so far.

    Args:
      x: tokens.
      real: bool [N]; others are never drawn.
      uniforms: one number in [0, 1) per centre; the draw is the inverse of the cumulative distribution.
    """

    def draw(weights, u):
        total = jnp.cumsum(weights * real)
        # The last real token catches rounding at the end of the sum.
        last = jnp.max(jnp.where(real, jnp.arange(x.shape[0]), 0))
        return jnp.minimum(jnp.searchsorted(total, u * total[-1], side="right"), last)

    first = x[draw(jnp.ones(x.shape[0]), uniforms[0])]

    def step(distance, u):
        centre = x[draw(distance + _SMOOTHING, u)]
        return jnp.minimum(distance, jnp.sum(jnp.square(x - centre), -1)), centre

    _, others = jax.lax.scan(step, jnp.sum(jnp.square(x - first), -1), uniforms[1:])
    return jnp.concatenate([first[None], others])


def lloyd(
    x: Float[jax.Array, "N D"],
    real: jax.Array,
    centres: Float[jax.Array, "K D"],
    active: jax.Array,
    iterations: int,
) -> TokenClusters:
    """k-means by cosine assignment and plain means, of one input, from given centres.

    Args:
      x: normalised tokens; zeros where not real.
      real: bool [N].
      centres: to begin with.
      active: bool [K], which of them take part.
      iterations: largest number of steps.
    """

    def assign(centres):
        cosines = jnp.dot(x, unit(centres).T, precision="highest")
        return jnp.argmax(jnp.where(active, cosines, -jnp.inf), -1).astype(jnp.int32)

    def sums(codes):
        hot = jax.nn.one_hot(codes, centres.shape[0]) * real[:, None]
        return jnp.sum(hot, axis=0), jnp.dot(hot.T, x, precision="highest")

    def step(carry):
        centres, _, steps = carry
        counts, total = sums(assign(centres))
        moved = jnp.where(counts[:, None] > 0, total / jnp.maximum(counts, 1.0)[:, None], centres)
        return moved, jnp.sqrt(jnp.sum(jnp.square(moved - centres))), steps + 1

    def goes_on(carry):
        return (carry[1] >= 1e-4) & (carry[2] < iterations)

    centres, _, _ = jax.lax.while_loop(goes_on, step, (centres, jnp.float32(jnp.inf), jnp.int32(0)))
    codes = assign(centres)
    counts, total = sums(codes)
    used = counts > 0
    centres = jnp.where(used[:, None], total / jnp.maximum(counts, 1.0)[:, None], 0.0)
    distortion = jnp.sum(jnp.square(x - centres[codes]) * real[:, None])
    return TokenClusters(centres, used, jnp.where(real, codes, 0), counts, distortion)
