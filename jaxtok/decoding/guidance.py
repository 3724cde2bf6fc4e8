"""Classifier-free guidance (arXiv 2207.12598), on logits."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.codes import Condition

GUIDANCE_RULES: dict[str, Callable[..., jax.Array]] = {
    # Strength 0 is the conditional model itself.
    "c+w(c-u)": lambda conditional, unconditional, w: conditional + w * (conditional - unconditional),
    # Strength 1 is the conditional model itself, 0 the unconditional one.
    "u+s(c-u)": lambda conditional, unconditional, s: unconditional + s * (conditional - unconditional),
}


def guide(
    conditional: Float[jax.Array, "*shape"],
    unconditional: Float[jax.Array, "*shape"],
    strength: float | jax.Array,
    rule: str = "c+w(c-u)",
) -> Float[jax.Array, "*shape"]:
    """Combines conditional and unconditional logits.

    Raises:
      ValueError: an unknown rule. The two in use differ by one in the strength, so it is always named.
    """
    if rule not in GUIDANCE_RULES:
        raise ValueError(f"guidance rule {rule!r}; choose one of {list(GUIDANCE_RULES)}")
    return GUIDANCE_RULES[rule](conditional, unconditional, strength)


def with_unconditional(condition: Condition) -> Condition:
    """A condition of 2B rows: B conditional ones, then B unconditional ones, for one pass instead of two."""
    other = condition.unconditional()

    def stack(axis):
        return lambda mine, null: jnp.concatenate([mine, null], axis=axis)

    features = jax.tree.map(stack(condition.batch_axis), condition.features, other.features)
    mask = None
    if other.mask is not None:
        mask = jnp.ones_like(other.mask) if condition.mask is None else condition.mask
        mask = stack(0)(mask, other.mask)
    return dataclasses.replace(condition, features=features, mask=mask, null=None)


def guide_stacked(logits: Float[jax.Array, "B2 *shape"], strength: float | jax.Array, rule: str) -> jax.Array:
    """`guide` for logits of 2B rows made from `with_unconditional`."""
    conditional, unconditional = jnp.split(logits, 2, axis=0)
    return guide(conditional, unconditional, strength, rule)
