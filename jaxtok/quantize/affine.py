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

Moments = Mapping[str, jax.Array]
_FLOOR = 1e-5  # of a variance
CODE_DECAY, BATCH_DECAY = 0.9, 0.99


def moments(x: Float[jax.Array, "M D"], prefix: str) -> dict[str, jax.Array]:
    """`{prefix}_mean` and (biased) `{prefix}_variance` per channel, float32 [D]."""
    return {f"{prefix}_mean": jnp.mean(x, axis=0), f"{prefix}_variance": jnp.var(x, axis=0)}


def moment_sums(x: Float[jax.Array, "M D"], weights: jax.Array | None) -> dict[str, jax.Array]:
    """Additive statistics that the batch's moments follow from: "tokens" [], "first" [D], "second" [D]."""
    weights = jnp.ones(x.shape[0], jnp.float32) if weights is None else weights
    return {
        "tokens": jnp.sum(weights),
        "first": jnp.sum(x * weights[:, None], axis=0),
        "second": jnp.sum(jnp.square(x) * weights[:, None], axis=0),
    }


def stretch(
    x: Float[jax.Array, "*rest D"], state: Moments, source: str, target: str
) -> Float[jax.Array, "*rest D"]:
    """Moves x from the mean and variance called `source` to those called `target` ("code" or "batch")."""
    ratio = jnp.maximum(state[f"{target}_variance"], _FLOOR) / jnp.maximum(
        state[f"{source}_variance"], _FLOOR
    )
    return (x - state[f"{source}_mean"]) * jnp.sqrt(ratio) + state[f"{target}_mean"]


def current_moments(codebook: Float[jax.Array, "K D"], sums: Moments) -> dict[str, jax.Array]:
    """Moments of a codebook and of the batch whose `moment_sums` these are."""
    tokens = jnp.maximum(sums["tokens"], 1.0)
    mean = sums["first"] / tokens
    variance = jnp.maximum(sums["second"] / tokens - jnp.square(mean), 0.0)
    return moments(codebook, "code") | {"batch_mean": mean, "batch_variance": variance}


def update_moments(state: Moments, codebook: Float[jax.Array, "K D"], sums: Moments) -> dict[str, jax.Array]:
    """The running averages after a batch; a batch without tokens changes nothing."""

    def moved(name, new):
        decay = CODE_DECAY if name.startswith("code") else BATCH_DECAY
        return jnp.where(sums["tokens"] > 0, decay * state[name] + (1 - decay) * new, state[name])

    return {name: moved(name, new) for name, new in current_moments(codebook, sums).items()}
