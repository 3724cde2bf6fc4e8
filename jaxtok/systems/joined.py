"""The slots of a token as one index, for what reads one code per token."""

import dataclasses

import jax.numpy as jnp

from jaxtok.codes import CodeSpace, Latents, Regrouping

LARGEST = 2**16  # a row of a table, and a logit, per value


def joined(space: CodeSpace, what: str, largest: int = LARGEST, codes: int = 0) -> Regrouping:
    """All slots of a token as one.

    Args:
      space: alphabet of a token.
      what: what reads the index, for messages.
      largest: values that a token may have, where it has several slots.
      codes: values that it has to have; 0 for any number.

    Raises:
      ValueError: a token has more of them, or another number.
    """
    if space.slots > 1 and space.size > largest:
        raise ValueError(
            f"{what} reads one index per token, of at most {largest} values, and tokens of levels "
            f"{space.levels} have {space.size:.3g}; choose fewer levels, codes or bits"
        )
    if codes and space.size != codes:
        raise ValueError(
            f"{what} models tokens of {codes} codes, the tokenizer makes them of {space.size}; set both alike"
        )
    return space.regroup((tuple(range(space.slots)),))


def split(latents: Latents, grouping: Regrouping) -> Latents:
    """Latents with slots of their own again; those that have them, and continuous ones, pass through."""
    slots = grouping.source.slots
    if latents.codes is None or latents.codes.shape[-1] == slots:
        return latents
    mask = latents.mask
    if mask is not None:
        mask = jnp.broadcast_to(jnp.asarray(mask), (*mask.shape[:-1], slots))
    return dataclasses.replace(latents, codes=grouping.split(latents.codes), mask=mask)
