"""Affine re-parameterisation of a codebook (arXiv 2305.08842): the codes are moved and stretched so that, as
a set, they lie where the features lie.

    e' = (e - m_c) sqrt(v_b / v_c) + m_b

with the mean and variance per channel of the codebook (c) and of the features (b), running averages that
`update` moves. One mean and variance move all codes, also those that nothing is assigned to.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import Array

Moments = Mapping[str, jax.Array]
_FLOOR = 1e-5  # of a variance
DECAYS = (0.9, 0.99)  # of the running averages: of the codebook's moments, and of the features'


def start(shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Moments that change nothing, [..., D]."""
    return {
        f"{side}_{name}": jnp.full(shape, value, jnp.float32)
        for side in ("code", "batch")
        for name, value in (("mean", 0.0), ("variance", 1.0))
    }


def moments(x: Float[jax.Array, "*books M D"], prefix: str) -> dict[str, jax.Array]:
    """`{prefix}_mean` and (biased) `{prefix}_variance` per channel, float32 [..., D]."""
    return {f"{prefix}_mean": jnp.mean(x, axis=-2), f"{prefix}_variance": jnp.var(x, axis=-2)}


def moment_sums(x: Float[jax.Array, "*books M D"], weights: jax.Array | None) -> dict[str, jax.Array]:
    """Additive statistics that the batch's moments follow from: "tokens" [...], "first" [..., D], "second"
    [..., D].

    Args:
      x: features.
      weights: [..., M] of the tokens, such as a mask.
    """
    weights = jnp.ones(x.shape[:-1], jnp.float32) if weights is None else weights
    return {
        "tokens": jnp.sum(weights, axis=-1),
        "first": jnp.sum(x * weights[..., None], axis=-2),
        "second": jnp.sum(jnp.square(x) * weights[..., None], axis=-2),
    }


def stretch(
    x: Float[Array, "*books M D"], state: Moments, source: str, target: str
) -> Float[jax.Array, "*books M D"]:
    """Moves x from the mean and variance called `source` to those called `target` ("code" or "batch")."""
    of = {name: state[name][..., None, :] for name in state if name.startswith((source, target))}
    ratio = jnp.maximum(of[f"{target}_variance"], _FLOOR) / jnp.maximum(of[f"{source}_variance"], _FLOOR)
    return (jnp.asarray(x) - of[f"{source}_mean"]) * jnp.sqrt(ratio) + of[f"{target}_mean"]


def current_moments(codebook: Float[Array, "*books K D"], sums: Moments) -> dict[str, jax.Array]:
    """Moments of a codebook and of the batch whose `moment_sums` these are."""
    tokens = jnp.maximum(sums["tokens"], 1.0)[..., None]
    mean = sums["first"] / tokens
    variance = jnp.maximum(sums["second"] / tokens - jnp.square(mean), 0.0)
    return moments(jnp.asarray(codebook), "code") | {"batch_mean": mean, "batch_variance": variance}


def update_moments(
    state: Moments,
    codebook: Float[Array, "*books K D"],
    sums: Moments,
    decays: tuple[float, float] = DECAYS,
) -> dict[str, jax.Array]:
    """The running averages after a batch; a batch without tokens changes nothing.

    Args:
      state: with the averages.
      codebook: as it is kept, not stretched.
      sums: `moment_sums` of the batch.
      decays: of the codebook's moments and of the features'.
    """
    any_token = (sums["tokens"] > 0)[..., None]

    def moved(name, new):
        decay = decays[not name.startswith("code")]
        return jnp.where(any_token, decay * state[name] + (1 - decay) * new, state[name])

    return {name: moved(name, new) for name, new in current_moments(codebook, sums).items()}
