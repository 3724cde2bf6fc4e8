"""What `quantizers.py` measures: shapes, inputs, memory that PyTorch will need, agreement of results."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

COMMITMENT, DECAY, EPSILON = 0.25, 0.99, 1e-5
# Of look-up free quantizers; the second is the default of both sides.
ENTROPY_WEIGHT, INVERSE_TEMPERATURE = 0.1, 100.0
FSQ_LEVELS = (8, 8, 8, 5, 5, 5)
TIE = 1e-5  # scores are equal when they differ by less than this share of |z|^2 + |e|^2
# Of losses, gradients and codebooks, relative to the largest number compared. The entropy of a token is exact
# in jaxtok, and has a floor of 1e-5 inside the logarithm in `vector-quantize-pytorch`.
TOLERANCES = {"lfq": 1e-3}
TOLERANCE = 1e-4
FEWEST_TOKENS = 256

Family = Literal["vq", "rvq", "lfq", "fsq"]
Task = Literal["look-up", "training step"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
      family: kind of quantizer.
      task: "look-up" (codes and their values, nothing to differentiate) or "training step" (forward, losses,
        backward to the features, moving averages).
      tokens: N.
      codes: K, codebook size.
      width: D, width of the features.
      depth: of a residual quantizer.
    """

    family: Family
    task: Task
    tokens: int
    codes: int
    width: int
    depth: int = 1

    @property
    def batch(self) -> int:
        """Examples that the tokens are divided into."""
        return min(16, self.tokens)

    def __str__(self) -> str:
        depth = f", depth {self.depth}" if self.depth > 1 else ""
        return f"{self.family} {self.task}: K={self.codes}, D={self.width}, N={self.tokens}{depth}"


@dataclasses.dataclass(frozen=True)
class Side:
    """One implementation of a case.

    Attributes:
      results: of one iteration from the starting state, NumPy arrays: "codes" [N, Q], "values" [N, D]; of a
        training step also "loss", "gradient" [N, D] and, where codes move, "codebooks" [Q, K, D].
      run: runs that many iterations and waits for them.
      planned_bytes: temporaries and outputs of the compiled program, where there is one.
    """

    results: Callable[[], dict[str, np.ndarray]]
    run: Callable[[int], None]
    planned_bytes: int | None = None


def cases(
    families: tuple[Family, ...],
    tasks: tuple[Task, ...],
    tokens: int,
    codes: tuple[int, ...],
    widths: tuple[int, ...],
    bits: tuple[int, ...] = (14, 18),
    depth: int = 8,
    residual: tuple[int, int] = (1024, 64),
) -> Iterator[Case]:
    """All cases of the families: every codebook size with every width, one residual quantizer (its K and D in
    `residual`), look-up free ones by bits, and one scalar quantizer.
    """
    for task in tasks:
        if "vq" in families:
            yield from (Case("vq", task, tokens, k, d) for k in codes for d in widths)
        if "rvq" in families:
            yield Case("rvq", task, tokens, *residual, depth)
        if "lfq" in families:
            yield from (Case("lfq", task, tokens, 2**n, n) for n in bits)
        if "fsq" in families:
            yield Case("fsq", task, tokens, int(np.prod(FSQ_LEVELS)), len(FSQ_LEVELS))


# Float32 arrays [N, K] that exist at the same time, measured with `quantizers_memory.py` (PyTorch 2.13,
# vector-quantize-pytorch 1.32).
_ARRAYS = {
    ("vq", "look-up", "vqp"): 4,
    ("vq", "training step", "vqp"): 6,
    ("rvq", "look-up", "vqp"): 5,
    ("rvq", "training step", "vqp"): 8,
    ("lfq", "training step", "vqp"): 7,
    ("vq", "look-up", "torch"): 1,
    ("vq", "training step", "torch"): 1,
    ("rvq", "look-up", "torch"): 1,
    ("rvq", "training step", "torch"): 1,
}


def needed_bytes(case: Case, side: str) -> int:
    """Memory that a side will need for arrays with an element per token and code; an estimate, to know before
    it runs that it would not fit.
    """
    return 4 * case.tokens * case.codes * _ARRAYS.get((case.family, case.task, side), 0)


def fewer_tokens(case: Case, side: str, limit: int) -> Case:
    """The case with tokens halved until the side needs less than a quarter of the limit."""
    while needed_bytes(case, side) > limit / 4 and case.tokens > FEWEST_TOKENS:
        case = dataclasses.replace(case, tokens=case.tokens // 2)
    return case


@functools.lru_cache(maxsize=1)
def inputs(case: Case) -> dict[str, np.ndarray]:
    """Arrays that both sides get: "z" [B, N / B, D], "cotangent" (the gradient that arrives from a decoder)
    and "codebooks" [Q, K, D].
    """
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    shape = (case.batch, case.tokens // case.batch, case.width)
    data = {"z": draw(*shape), "cotangent": draw(*shape) / case.tokens}
    if case.family in ("vq", "rvq"):
        # Residuals shrink from depth to depth, and the codes with them.
        shrink = np.float32(0.7) ** np.arange(case.depth, dtype=np.float32)
        data["codebooks"] = draw(case.depth, case.codes, case.width) * shrink[:, None, None]
    return data


def disagreements(case: Case, mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """How far the results of two sides are apart.

    Args:
      case: what was computed.
      mine: `Side.results` of one side.
      theirs: of the other.

    Returns:
      "tokens with a tie", the share of tokens whose codes differ because two codes are equally near, and per
      result the largest difference relative to the largest number; codes that a tie may have touched are left
      out.

    Raises:
      ValueError: codes differ without a tie, or a difference is too large.
    """
    other = np.any(mine["codes"] != theirs["codes"], axis=1)
    wrong = other & ~_ties(case, mine["codes"], theirs["codes"])
    if wrong.any():
        raise ValueError(f"{case}: {int(wrong.sum())} tokens have other codes, and not because of ties")
    found = {"tokens with a tie": float(other.mean())}
    touched = np.zeros((case.depth, case.codes), bool)
    for codes in (mine["codes"][other], theirs["codes"][other]):
        if case.family in ("vq", "rvq"):
            for depth in range(case.depth):
                touched[depth, codes[:, depth]] = True
    for name in sorted(set(mine) & set(theirs) - {"codes"}):
        a, b = mine[name], theirs[name]
        if name in ("values", "gradient"):
            a, b = a[~other], b[~other]
        elif name == "codebooks":
            a, b = a[~touched], b[~touched]
        elif name == "loss" and other.any():
            continue
        found[name] = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) if a.size else 0.0
    allowed = TOLERANCES.get(case.family, TOLERANCE)
    large = {k: v for k, v in found.items() if k != "tokens with a tie" and not v < allowed}
    if large:
        raise ValueError(f"{case}: results differ by {large}, allowed is {allowed}")
    return found


def _ties(case: Case, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Tokens whose first difference is between two codes that are equally near, in float64."""
    ties = np.zeros(case.tokens, bool)
    z = inputs(case)["z"].reshape(case.tokens, -1).astype(np.float64)
    if case.family in ("lfq", "fsq"):
        return ties  # the sign of a number, or its rounding: both sides see the same number
    books = inputs(case)["codebooks"]
    for token in np.flatnonzero(np.any(mine != theirs, axis=1)):
        depth = int(np.argmax(mine[token] != theirs[token]))
        residual = z[token] - sum(books[i, mine[token, i]].astype(np.float64) for i in range(depth))
        pair = books[depth, [mine[token, depth], theirs[token, depth]]].astype(np.float64)
        distances = np.square(residual - pair).sum(axis=1)
        size = np.square(residual).sum() + np.square(pair).sum(axis=1).max()
        ties[token] = abs(distances[0] - distances[1]) < TIE * size
    return ties
