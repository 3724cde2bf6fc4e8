"""Wrong codes on purpose, so that a decoder learns to bear a generator's errors (RobusTok, arXiv 2503.08354).

Of some examples, each token's code is replaced with probability alpha by one of the delta codes nearest to
its feature (the right one among them):

    code' = nearest_j(z),   j = 0 if u > alpha else floor(v delta),   u, v uniform in [0, 1)

Losses of the quantizer keep the right codes; values of the wrong ones are routed straight through. Alpha and
delta are annealed together, see `Perturbation.at`. The same at evaluation, on all examples, gives the
paper's pFID.

    >>> import jax
    >>> from jaxtok.quantize.perturbation import Perturbation
    >>> from jaxtok.quantize.vq import VectorQuantizer
    >>> quantizer = VectorQuantizer(codes=64, width=8, metric="cosine")
    >>> z = jax.random.normal(jax.random.key(0), (4, 16, 8))
    >>> variables = quantizer.init(jax.random.key(1), z)
    >>> codes = quantizer.apply(variables, z, method="encode")
    >>> wrong = Perturbation(alpha=0.5, beta=1.0, delta=10)
    >>> codebook = variables["params"]["codebook"]
    >>> other = wrong(z, codes[..., 0], codebook, jax.random.key(2), metric="cosine")
    >>> other.shape, bool((other != codes[..., 0]).any())
    ((4, 16), True)
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok import keys as random
from jaxtok.codes import Array
from jaxtok.kernels.nearest_code.api import Metric, unit

_TOKENS = 512  # that are compared with all codes at a time


def nearest_codes(
    z: Float[jax.Array, "M D"], codebook: Float[Array, "K D"], count: int, metric: Metric = "euclidean"
) -> Int[jax.Array, "M n"]:
    """The `count` nearest codes of each token, nearest first, int32; the lower index first of equals.

    Scores of 512 tokens are held at a time. No gradient.

    Raises:
      ValueError: more codes than there are.
    """
    z, codebook = jax.lax.stop_gradient((z.astype(jnp.float32), jnp.asarray(codebook, jnp.float32)))
    if not 1 <= count <= codebook.shape[0]:
        raise ValueError(f"count={count} of {codebook.shape[0]} codes; choose 1 to {codebook.shape[0]}")
    if metric == "cosine":
        z, codebook = unit(z), unit(codebook)
    squares = jnp.sum(jnp.square(codebook), axis=-1)

    def one(token):
        # Half the distance, with the sign turned and without the term that is the same for all codes.
        return jax.lax.top_k(jnp.dot(codebook, token, precision="highest") - squares / 2, count)[1]

    return jax.lax.map(one, z, batch_size=_TOKENS).astype(jnp.int32)


def perturb_codes(
    codes: Int[jax.Array, "B N"],
    neighbours: Int[jax.Array, "B N n"],
    ranks: Int[jax.Array, "B N"],
    replaced: jax.Array,
) -> Int[jax.Array, "B N"]:
    """Codes with some of them replaced by a neighbour.

    Args:
      codes: the right ones.
      neighbours: nearest codes, from `nearest_codes`.
      ranks: which neighbour, in [0, n).
      replaced: bool, [B, N] or anything that broadcasts to it.
    """
    other = jnp.take_along_axis(neighbours, ranks[..., None], axis=-1)[..., 0]
    return jnp.where(replaced, other, codes)


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Replacement of codes by neighbours.

    Attributes:
      alpha: probability that a token of a chosen example is replaced.
      beta: share of the examples. (The released code takes the first ones of a batch; here each example is
        drawn by its key, which does not depend on how a batch is split.)
      delta: number of nearest codes that the replacement is drawn from.
      start: progress of the training, in [0, 1], where annealing starts.
      end: where it ends.
      floor: factor of alpha and delta from there on.
    """

    alpha: float = 1.0
    beta: float = 0.1
    delta: int = 100
    start: float = 0.2
    end: float = 0.6
    floor: float = 0.5

    def at(self, progress: float | jax.Array) -> jax.Array:
        """Factor of alpha and delta: 1, then falling linearly to `floor` between `start` and `end`."""
        done = (progress - self.start) / max(self.end - self.start, 1e-9)
        return 1 - jnp.clip(done, 0.0, 1.0) * (1 - self.floor)

    def __call__(
        self,
        z: Float[jax.Array, "B N D"],
        codes: Int[jax.Array, "B N"],
        codebook: Float[Array, "K D"],
        key: jax.Array,
        factor: float | jax.Array = 1.0,
        metric: Metric = "euclidean",
    ) -> Int[jax.Array, "B N"]:
        """Perturbed codes, int32.

        Args:
          z: features as they are compared with the codes.
          codes: of the features.
          codebook: the codes' vectors.
          key: scalar key or one key per example.
          factor: of alpha and delta, from `at`.
          metric: of the quantizer.
        """
        keys = random.example_keys(key, z.shape[0])
        uniforms = random.uniform(keys, (3, z.shape[1]))
        delta = jnp.maximum(jnp.floor(factor * self.delta), 1.0)
        ranks = jnp.minimum(jnp.floor(uniforms[:, 1] * delta), delta - 1).astype(jnp.int32)
        chosen = uniforms[:, 2, :1] < self.beta
        neighbours = nearest_codes(z.reshape(-1, z.shape[-1]), codebook, self.delta, metric)
        neighbours = neighbours.reshape(*codes.shape, -1)
        return perturb_codes(codes, neighbours, ranks, chosen & (uniforms[:, 0] <= factor * self.alpha))
