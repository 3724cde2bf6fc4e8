"""Loss terms of vector quantizers beyond the distance between features and codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxtok.codes import Array
from jaxtok.kernels.nearest_code.api import Metric, unit
from jaxtok.quantize.routing import masked


def similarities(
    x: Float[jax.Array, "B N S d"], codebook: Float[Array, "*books K d"], metric: Metric
) -> Float[jax.Array, "B N S K"]:
    """Similarity of every slot to every code: `-|x - e_k|`, or the cosine.

    The distance (not its square) is the one of `vector-quantize-pytorch`; the square is at least 1e-8.
    """
    if metric == "cosine":
        x, codebook = unit(x), unit(codebook)
    equation = "bnsd,kd->bnsk" if codebook.ndim == 2 else "bnsd,skd->bnsk"
    products = jnp.einsum(equation, x, codebook, precision="highest")
    if metric == "cosine":
        return products
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True) + jnp.sum(jnp.square(codebook), axis=-1)
    return -jnp.sqrt(jnp.maximum(squares - 2 * products, 1e-8))


def cross_entropy(
    similarity: Float[jax.Array, "*batch K"], codes: Int[jax.Array, "*batch"]
) -> Float[jax.Array, "*batch"]:
    """`-log softmax(similarity)` at the codes, in nats: commitment as classification, or a target from
    elsewhere.
    """
    chosen = jnp.take_along_axis(similarity, codes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(similarity, axis=-1) - chosen


def orthogonality(
    codebook: Float[Array, "*books K d"], weights: Float[jax.Array, "*books K"] | None = None
) -> Float[jax.Array, ""]:
    """`mean_ij cos(e_i, e_j)^2 - 1/K`, averaged over codebooks (arXiv 2112.00384).

    0 for orthonormal codes, `1 - 1/K` for equal ones.

    Args:
      codebook: the codes.
      weights: 1 for codes that take part and 0 for others; K is then the number of those that do.
    """
    codes = unit(jnp.asarray(codebook))
    if weights is not None:
        codes = codes * weights[..., None]
    gram = jnp.einsum("...id,...jd->...ij", codes, codes, precision="highest")
    n = codes.shape[-2] if weights is None else jnp.maximum(jnp.sum(weights, axis=-1), 1.0)
    return jnp.mean(jnp.sum(jnp.square(gram), axis=(-2, -1)) / n**2 - 1 / n)


def subset(
    codebook: Float[Array, "*books K d"],
    active: Float[jax.Array, "*books K"],
    size: int,
    uniforms: Float[jax.Array, " K"] | None = None,
) -> tuple[Float[jax.Array, "*books n d"], Float[jax.Array, "*books n"]]:
    """At most `size` of the active codes, in random order, for `orthogonality`: its cost is that number
    squared.

    Args:
      codebook: the codes.
      active: 1 for codes that may be taken, else 0.
      size: n; 0 for all K.
      uniforms: numbers in [0, 1), one per code; the active codes with the largest are taken. None: the first
        ones.

    Returns:
      Codes, and weights that are 1 where there was an active one.
    """
    size = min(size or codebook.shape[-2], codebook.shape[-2])
    order = active * (1 + (jnp.zeros(codebook.shape[-2]) if uniforms is None else uniforms))
    chosen = jnp.argsort(-order, axis=-1, stable=True)[..., :size]
    return (
        jnp.take_along_axis(jnp.asarray(codebook), chosen[..., None], axis=-2),
        jnp.take_along_axis(active, chosen, axis=-1),
    )


def diversity(
    similarity: Float[jax.Array, "B N S K"], temperature: float, mask: jax.Array | None
) -> Float[jax.Array, ""]:
    """Negative entropy, in nats, of the mean soft assignment `softmax(temperature * similarity)`.

    The mean is over the batch and the slots; the entropy is averaged over the token positions, which
    therefore each have to be diverse.
    """
    soft = jnp.mean(jax.nn.softmax(temperature * similarity, axis=-1), axis=-2)
    weights = jnp.ones(similarity.shape[:2]) if mask is None else mask.astype(jnp.float32)
    total = jnp.sum(weights, axis=0)
    mean = jnp.sum(masked(soft, mask), axis=0) / jnp.maximum(total, 1.0)[:, None]
    entropy = -jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-20)), axis=-1)
    real = (total > 0).astype(jnp.float32)
    return -jnp.sum(entropy * real) / jnp.maximum(jnp.sum(real), 1.0)
