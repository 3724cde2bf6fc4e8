"""How new types appear as a corpus grows: Heaps, innovation per image, Yule and Simon."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import optimize, special

from jaxtok.codes import Array
from jaxtok.evaluate.language.tokens import full_mask


def heaps_curve(tokens: Int[Array, "B N"], mask: Bool[Array, "..."] | None = None) -> Int[np.ndarray, " M"]:
    """V(n): how many types are among the first n tokens that the mask keeps, n = 1 to M."""
    tokens = np.asarray(tokens)
    stream = tokens[full_mask(tokens, mask)]
    new = np.zeros(len(stream), np.int64)
    new[np.unique(stream, return_index=True)[1]] = 1
    return np.cumsum(new)


def fit_heaps(curve: Num[Array, " M"], points: int = 50) -> tuple[float, float]:
    """(K, beta) of V = K n^beta by least squares of the logarithms, at `points` lengths that are evenly
    spaced on the logarithmic axis.

    Raises:
      ValueError: fewer than two tokens.
    """
    curve = np.asarray(curve, np.float64)
    if len(curve) < 2:
        raise ValueError(f"a curve of {len(curve)} tokens has no slope; give at least 2")
    lengths = np.unique(np.round(np.geomspace(1, len(curve), points)).astype(np.int64))
    x, y = np.log(lengths), np.log(curve[lengths - 1])
    beta = float((x - x.mean()) @ (y - y.mean()) / np.sum((x - x.mean()) ** 2))
    return float(np.exp(y.mean() - beta * x.mean())), beta


def coupon_collector(codes: int, tokens: Num[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Expected V(n) of independent and equally likely codes: K (1 - (1 - 1/K)^n)."""
    return (
        -codes * np.expm1(np.asarray(tokens, np.float64) * np.log1p(-1 / codes))
        if codes > 1
        else np.ones(np.shape(tokens))
    )


@dataclasses.dataclass(frozen=True)
class Innovation:
    """New types per token as images are added in random order.

    Attributes:
      per_image: float64 [B], new types of the i-th image over its tokens; mean over orders.
      half: images (mean over orders) after which half of all types have been seen.
      orders: how many random orders.
    """

    per_image: np.ndarray
    half: float
    orders: int


def innovation_rate(
    tokens: Int[Array, "B N"], mask: Bool[Array, "..."] | None = None, *, orders: int = 10, seed: int = 0
) -> Innovation:
    """Average of random orders of the images.

    Raises:
      ValueError: `orders` below 1, or no tokens.
    """
    tokens = np.asarray(tokens)
    kept = full_mask(tokens, mask)
    tokens, kept = tokens[kept.any(axis=1)], kept[kept.any(axis=1)]
    if orders < 1 or not len(tokens):
        raise ValueError(f"orders={orders} of {len(tokens)} images with tokens: both must be at least 1")
    rng, lengths, rates, halves = np.random.default_rng(seed), kept.sum(axis=1), [], []
    for _ in range(orders):
        order = rng.permutation(len(tokens))
        image = np.repeat(np.arange(len(tokens)), lengths[order])
        first = np.unique(tokens[order][kept[order]], return_index=True)[1]
        new = np.bincount(image[first], minlength=len(tokens))
        rates.append(new / lengths[order])
        halves.append(int(np.argmax(2 * np.cumsum(new) >= new.sum())) + 1)
    return Innovation(np.mean(rates, axis=0), float(np.mean(halves)), orders)


def yule_k(counts: Num[Array, " types"]) -> float:
    """Yule's K, 10^4 (sum f^2 - N) / N^2: repetition, nearly independent of the size of the corpus."""
    counts = np.asarray(counts, np.float64)
    total = counts.sum()
    if not total > 0:
        raise ValueError("Yule's K of no tokens; give counts of at least one")
    return float(1e4 * (np.sum(counts**2) - total) / total**2)


def fit_yule_simon(counts: Num[Array, " types"]) -> tuple[float, float]:
    """Likeliest rho of p(k) = rho B(k, rho + 1), k the count of a type that occurs, and the probability of a
    new token 1 - 1/rho that Simon's process then has (0 where rho is below 1, which it cannot have).

    Raises:
      ValueError: nothing occurs, or every type occurs once (rho would be infinite).
    """
    counts = np.asarray(counts, np.float64)
    values = counts[counts > 0]
    if not len(values) or values.max() == 1:
        raise ValueError("Yule and Simon's law needs types of which at least one occurs twice")

    def loss(log_rho: float) -> float:
        rho = np.exp(log_rho)
        return -float(np.mean(np.log(rho) + special.betaln(values, rho + 1)))

    rho = float(np.exp(optimize.minimize_scalar(loss, bounds=(-10.0, 15.0), method="bounded").x))
    return rho, max(1 - 1 / rho, 0.0)
