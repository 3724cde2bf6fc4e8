"""Usage, dead codes, entropy and perplexity from counts of codes, in float64."""

import numpy as np
from jaxtyping import Float, Int

Value = np.ndarray | np.float64 | np.int64  # NumPy reductions of one row give scalars, not arrays


def usage(counts: Int[np.ndarray, "*batch K"]) -> Float[Value, "*batch"]:
    """Fraction of the K codes that occur at least once."""
    return np.mean(counts > 0, axis=-1)


def dead_codes(counts: Int[np.ndarray, "*batch K"]) -> Int[Value, "*batch"]:
    """Number of codes that never occur."""
    return np.sum(counts == 0, axis=-1)


def entropy_nats(
    counts: Int[np.ndarray, "*batch K"], *, miller_madow: bool = False
) -> Float[Value, "*batch"]:
    """Entropy of the code distribution in nats, `-sum p ln p` with 0 ln 0 = 0.

    Args:
      counts: occurrences of each code.
      miller_madow: adds (number of observed codes - 1) / (2 N), the first-order correction of the plug-in
        estimate's downward bias (Miller 1955).

    Raises:
      ValueError: a row has no counts at all.
    """
    total = counts.sum(axis=-1, keepdims=True, dtype=np.float64)
    if not np.all(total > 0):
        raise ValueError("entropy of no codes: every row of counts needs at least one occurrence")
    p = counts / total
    plug_in = -np.sum(p * np.log(np.where(counts > 0, p, 1.0)), axis=-1)
    if not miller_madow:
        return plug_in + 0.0  # turns -0.0 into 0.0
    return plug_in + (np.sum(counts > 0, axis=-1) - 1) / (2 * total[..., 0])


def perplexity(counts: Int[np.ndarray, "*batch K"]) -> Float[Value, "*batch"]:
    """exp(plug-in entropy), between 1 and K: the number of equally likely codes with the same entropy."""
    return np.exp(entropy_nats(counts))


def uniform_divergence(counts: Int[np.ndarray, "*batch K"]) -> Float[Value, "*batch"]:
    """Kullback-Leibler divergence of the plug-in distribution from the uniform one, ln K - H, in nats; 0 for
    codes that are used alike.
    """
    return np.log(counts.shape[-1]) - entropy_nats(counts)
