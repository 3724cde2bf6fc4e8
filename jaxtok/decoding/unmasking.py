"""How masked tokens become known: how many after each step, and which.

Masked decoding (MaskGIT, arXiv 2202.04200) starts from masks only and draws all tokens in every step, but
keeps only some of them. A schedule gamma(r) says which part is still masked when the part r of the steps is
done; an order says which tokens those are: the least confident ones, random ones, or the last of a fixed
sequence that spreads over the grid (Halton, arXiv 2503.17076).
"""

import functools
import math
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

Rounding = Literal["masked", "known"]
_POWERS = {"linear": 1.0, "square": 2.0, "cubic": 3.0, "sqrt": 0.5}
_PRIMES = (2, 3, 5, 7, 11)


def mask_ratio(schedule: str, progress: Any, tokens: int = 0) -> Any:
    """gamma(r), the part that is masked: 1 at r = 0 (1 - 1/N for "exp"), 0 at r = 1, decreasing.

    Args:
      schedule: "cosine" cos(pi r / 2), "arccos" 2 arccos(r) / pi, "powP" 1 - r^P for any P > 0 ("linear",
        "square", "cubic" and "sqrt" are names of P = 1, 2, 3 and 1/2), "log" -log2(r) / log2(N) or
        "exp" 1 - 2^(-log2(N) (1 - r)).
      progress: r in [0, 1], float or array of any shape.
      tokens: N, for "log" and "exp".

    Returns:
      Ratio in [0, 1]: float64 for NumPy and Python numbers, float32 for JAX arrays.

    Raises:
      ValueError: an unknown schedule, or one that needs more than one token.
    """
    xp, r = (jnp, progress) if isinstance(progress, jax.Array) else (np, np.asarray(progress, np.float64))
    check_mask_schedule(schedule)
    if schedule == "cosine":
        ratio = xp.cos(math.pi / 2 * r)
    elif schedule == "arccos":
        ratio = xp.arccos(xp.clip(r, 0, 1)) / (math.pi / 2)
    elif schedule in ("log", "exp"):
        if tokens < 2:
            raise ValueError(f"mask schedule {schedule!r} needs tokens of at least 2, got {tokens}")
        bits = math.log2(tokens)
        # At r = 0 the logarithm is infinite, and clipped to 1.
        ratio = -xp.log2(xp.maximum(r, 1e-30)) / bits if schedule == "log" else 1 - 2 ** (-bits * (1 - r))
    else:
        ratio = 1 - r ** _power(schedule)
    return xp.clip(ratio, 0.0, 1.0)


def check_mask_schedule(schedule: str) -> None:
    """Raises `ValueError` for an unknown schedule."""
    if schedule not in ("cosine", "arccos", "log", "exp") and _power(schedule) <= 0:
        names = ["cosine", "arccos", "log", "exp", *_POWERS, "pow<P> with P > 0, such as 'pow2.5'"]
        raise ValueError(f"mask schedule {schedule!r}; choose one of {names}")


def _power(schedule: str) -> float:
    """P of a power schedule; 0 if it is none."""
    match = re.fullmatch(r"pow(\d+(\.\d*)?)", schedule)
    return _POWERS.get(schedule, float(match[1]) if match else 0.0)


@functools.lru_cache(maxsize=32)
def masked_after(
    schedule: str, steps: int, tokens: int, start: int = 0, rounding: Rounding = "masked"
) -> np.ndarray:
    """How many tokens are still masked after each step, for every number that is masked at first.

    With U masked at first, n(s) = max(1, min(n(s - 1) - 1, floor(U gamma((s + 1) / steps)))): every step
    makes at least one token known and leaves at least one for the next. After the last step there is none.

    Args:
      schedule: see `mask_ratio`.
      steps: T.
      tokens: N, the largest U.
      start: first step that is run, above 0 for editing, where most is known.
      rounding: whether the number of "masked" or of "known" tokens is rounded down.

    Returns:
      int32 [T - start, N + 1]; entry [s - start, U] is n(s).

    Raises:
      ValueError: no steps, or a start that is none of them.
    """
    if steps < 1 or not 0 <= start < steps:
        raise ValueError(f"steps={steps} must be at least 1 and start={start} in [0, {steps})")
    first = np.arange(tokens + 1)
    left, table = first, np.zeros((steps - start, tokens + 1), np.int32)
    for step in range(start, steps - 1):
        ratio = mask_ratio(schedule, (step + 1) / steps, tokens)
        rounded = np.floor(first * ratio) if rounding == "masked" else first - np.floor(first * (1 - ratio))
        left = np.minimum(np.maximum(1, np.minimum(left - 1, rounded.astype(np.int64))), first)
        table[step - start] = left
    table.setflags(write=False)  # it is shared by all who ask
    return table


def keep_masked(
    score: Float[jax.Array, "B N"], masked: Bool[jax.Array, "B N"], count: Int[jax.Array, " B"]
) -> Bool[jax.Array, "B N"]:
    """The `count` tokens of each row with the lowest scores among those masked now; of equals the first.

    Args:
      score: the higher, the sooner a token becomes known.
      masked: which tokens are masked now; the others stay known.
      count: how many stay masked, at most as many as are.
    """
    rank = jnp.argsort(jnp.argsort(jnp.where(masked, score, jnp.inf), axis=-1), axis=-1)
    return (rank < count[:, None]) & masked


def random_masked(uniform: Float[jax.Array, "B N"], count: Int[jax.Array, " B"]) -> Bool[jax.Array, "B N"]:
    """`count` tokens of each row, every choice equally likely for uniform numbers that are independent."""
    return jnp.argsort(uniform, axis=-1) < count[:, None]


@functools.lru_cache(maxsize=8)
def halton_order(shape: tuple[int, ...]) -> np.ndarray:
    """A fixed order of the cells of a grid in which every run of cells is spread over it (arXiv 2503.17076).

    Points 1, 2, ... of the Halton sequence, whose coordinate in axis a is the radical inverse in the a-th
    prime, fall into cells; a cell takes its place where it is hit first.

    Args:
      shape: cells per axis, one to five axes; (height, width) for images, (N,) for tokens in a row.

    Returns:
      int32 [cells], row-major indices of the cells, first to last.

    Raises:
      ValueError: no axes, more than five, or an axis without cells.
    """
    if not 1 <= len(shape) <= len(_PRIMES) or any(side < 1 for side in shape):
        raise ValueError(f"shape={tuple(shape)} must have one to {len(_PRIMES)} axes of at least one cell")
    cells, found, first = math.prod(shape), np.zeros(0, np.int64), 1
    while len(found) < cells:
        points = np.arange(first, first + 8 * cells)
        places = [
            np.floor(_radical_inverse(points, base) * side).astype(np.int64)
            for base, side in zip(_PRIMES, shape, strict=False)
        ]
        both = np.concatenate([found, np.ravel_multi_index(places, tuple(shape))])
        found = both[np.sort(np.unique(both, return_index=True)[1])]
        first += 8 * cells
    order = found.astype(np.int32)
    order.setflags(write=False)
    return order


def _radical_inverse(numbers: np.ndarray, base: int) -> np.ndarray:
    """The digits of the numbers in that base, mirrored at the point."""
    result, scale, rest = np.zeros(len(numbers)), 1.0, numbers
    while rest.any():
        scale /= base
        result, rest = result + scale * (rest % base), rest // base
    return result
