"""How well an alphabet is used, from additive counts: the same few numbers for every quantizer."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float


def code_health(counts: Float[jax.Array, "*slots K"]) -> dict[str, jax.Array]:
    """Health of codebooks, averaged over their slots.

    Args:
      counts: how many tokens took each code, over a batch, a window or an evaluation set, summed over the
        mesh.

    Returns:
      "usage": share of codes used; "perplexity": `exp` of the entropy of their frequencies, in [1, K];
      "dead_codes": number of codes without a token; "bits_per_token": entropy in bits, summed over the slots
      (what an ideal entropy coder without context would spend). All float32 scalars; zero tokens give zeros.
    """
    counts = counts.astype(jnp.float32)
    p = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)
    return {
        "usage": jnp.mean(p > 0),
        "perplexity": jnp.mean(jnp.exp(entropy)),
        "dead_codes": jnp.sum(counts == 0).astype(jnp.float32),
        "bits_per_token": jnp.sum(entropy) / jnp.log(2.0),
    }


def bit_health(on: Float[jax.Array, "*groups n"], tokens: Float[jax.Array, ""]) -> dict[str, jax.Array]:
    """Health of bits that are counted one by one, because their joint alphabet is too large to count.

    Args:
      on: how many tokens have each bit on.
      tokens: how many tokens there were.

    Returns:
      "bit_entropy": mean over bits of the entropy of its marginal, in bits (1 is best); "dead_bits": number
      of bits that never changed; "bits_per_token": sum of the marginal entropies, an upper bound of the joint
      one.
    """
    p = on / jnp.maximum(tokens, 1.0)
    inside = jnp.clip(p, 1e-12, 1 - 1e-7)
    entropy = -(inside * jnp.log2(inside) + (1 - inside) * jnp.log2(1 - inside))
    dead = (p == 0) | (p == 1)
    entropy = jnp.where(dead, 0.0, entropy)
    return {
        "bit_entropy": jnp.mean(entropy),
        "dead_bits": jnp.sum(dead).astype(jnp.float32),
        "bits_per_token": jnp.sum(entropy),
    }


def health(statistics: dict[str, Any]) -> dict[str, jax.Array]:
    """Health from the statistics of any quantizer; of a residual stack, averaged over its depths.

    Args:
      statistics: with "counts", or "on" and "tokens"; or nested dictionaries of such. Others give nothing.
    """
    if "counts" in statistics:
        return code_health(statistics["counts"])
    if "on" in statistics:
        return bit_health(statistics["on"], statistics["tokens"])
    parts = [health(part) for part in statistics.values() if isinstance(part, dict)]
    parts = [part for part in parts if part]
    if not parts:
        return {}
    total = ("dead_codes", "dead_bits", "bits_per_token")
    return {
        name: jnp.sum(jnp.stack([p[name] for p in parts])) / (1 if name in total else len(parts))
        for name in parts[0]
        if all(name in p for p in parts)
    }
