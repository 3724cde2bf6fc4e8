"""Linear probes: how much of a label can be read from latents by a linear map.

A multinomial logistic regression is fitted on training latents and scored on held-out ones, for several
fractions of the training labels. Its strength of penalty is chosen inside the training part, so the held-out
part is used once.

    features = [probe_features(codes, space, "bits") for codes in (train_codes, test_codes)]
    linear_probe(features[0], train_labels, features[1], test_labels, fractions=(0.01, 0.1, 1.0))
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from scipy import sparse
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from jaxtok.codes import Array, CodeSpace
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.regression import logistic_regression

Matrix = Any  # np.ndarray or a SciPy sparse matrix, [B, features]


def probe_features(
    codes: Int[Array, "B N Q"], space: CodeSpace, kind: Literal["one_hot", "bits"] = "one_hot"
) -> Matrix:
    """What a probe of codes sees.

    Args:
      codes: slot q in [0, levels[q]).
      space: their alphabet.
      kind: "one_hot", sparse [B, N * sum(levels)], or "bits": the binary digits of every slot as -1 and 1,
        [B, N * total digits], least significant first; of a binary space these are the codes themselves.

    Raises:
      ValueError: codes outside their alphabets, or another kind.
    """
    codes, levels = np.asarray(codes).astype(np.int64), np.asarray(space.levels)
    if codes.shape[-1] != len(levels) or np.any(codes < 0) or np.any(codes >= levels):
        raise ValueError(f"codes of shape {codes.shape} are not all in [0, levels) of {space.slots} slots")
    if kind == "one_hot":
        edges = np.concatenate([[0], np.cumsum(levels)])
        columns = codes + edges[:-1] + edges[-1] * np.arange(codes.shape[1])[:, None]
        columns = columns.reshape(len(codes), -1)
        rows = np.repeat(np.arange(len(codes)), columns.shape[1])
        shape = len(codes), codes.shape[1] * int(edges[-1])
        return sparse.csr_matrix((np.ones(columns.size), (rows, columns.ravel())), shape=shape)
    if kind == "bits":
        digits = [max(int(level - 1).bit_length(), 1) for level in levels]
        bits = [codes[..., slot, None] >> np.arange(count) & 1 for slot, count in enumerate(digits)]
        return 2.0 * np.concatenate(bits, axis=-1).reshape(len(codes), -1) - 1
    raise ValueError(f"kind={kind!r}; choose 'one_hot' or 'bits'")


def linear_probe(
    train: Matrix,
    train_labels: Int[Array, "..."],
    test: Matrix,
    test_labels: Int[Array, "..."],
    *,
    name: str = "probe",
    fractions: Sequence[float] = (0.1, 1.0),
    penalties: Sequence[float] = (0.01, 1.0, 100.0),
    iterations: int = 200,
    seed: int = 0,
    **protocol: Any,
) -> list[Result]:
    """`<name>_accuracy_<percent>pct`: share of held-out examples that are classified rightly, by fraction.

    A smaller fraction is a part of every larger one, and every class keeps its share of it (at least one
    example). Dense features are standardised by the training part, sparse ones stay as they are.

    Args:
      train: [B, F] features: of `probe_features`, or embeddings, one row per example.
      train_labels: [B], integers.
      test: [T, F] features of other examples.
      test_labels: [T].
      name: of what is probed.
      fractions: of the training examples, in (0, 1].
      penalties: inverse strengths of the squared penalty; the best on a fifth of the training part is used
        (of classes with at least two examples each; otherwise the middle one).
      iterations: of lbfgs.
      seed: of the fractions and that fifth.
      **protocol: what this cannot know: data set, split, label, features, weights.

    Raises:
      ValueError: other numbers of labels than rows, other widths, a single class, or a fraction outside
        (0, 1].
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check(train, train_labels, test, test_labels, fractions)
    shares = _shares(train_labels, seed)
    results = []
    for fraction in fractions:
        rows = np.flatnonzero(shares < fraction)
        own, labels = train[rows], train_labels[rows]
        scaler: Any = MaxAbsScaler() if sparse.issparse(own) else StandardScaler()
        own, held_out = scaler.fit_transform(own), scaler.transform(test)
        penalty = _best_penalty(own, labels, penalties, iterations, seed)
        model = logistic_regression(own, labels, penalty=penalty, iterations=iterations)
        accuracy = float(np.mean(model.predict(held_out) == test_labels))
        values, counts = np.unique(train_labels, return_counts=True)
        shared = {
            "probe": "multinomial logistic regression",
            "penalty": penalty,
            "fraction": fraction,
            "train_examples": len(rows),
            "test_examples": len(test_labels),
            "features": int(train.shape[1]),
            "classes": len(values),
            "majority_accuracy": round(float(np.mean(test_labels == values[counts.argmax()])), 6),
            "seed": seed,
        }
        results.append(Result(f"{name}_accuracy_{100 * fraction:g}pct", accuracy, {**shared, **protocol}))
    return results


def _shares(labels: np.ndarray, seed: int) -> np.ndarray:
    """Of each example, the smallest fraction that has it: those of a class are spread evenly over [0, 1)."""
    rng, share = np.random.default_rng(seed), np.empty(len(labels))
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        share[rows] = np.arange(len(rows)) / len(rows)
    return share


def _best_penalty(
    features: Matrix, labels: np.ndarray, penalties: Sequence[float], iterations: int, seed: int
) -> float:
    """The first of the best on a held-out fifth; the middle one if that fifth cannot have every class."""
    smallest, classes = np.unique(labels, return_counts=True)[1].min(), len(np.unique(labels))
    if len(penalties) == 1 or smallest < 2 or len(labels) < 5 * classes:
        return float(penalties[len(penalties) // 2])
    fit, score = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=seed, stratify=labels)
    right = []
    for penalty in penalties:
        model = logistic_regression(features[fit], labels[fit], penalty=penalty, iterations=iterations)
        right.append(np.mean(model.predict(features[score]) == labels[score]))
    return float(penalties[int(np.argmax(right))])


def _check(
    train: Matrix, train_labels: Any, test: Matrix, test_labels: Any, fractions: Sequence[float]
) -> None:
    shapes = f"train {train.shape}, {train_labels.shape}, test {test.shape}, {test_labels.shape}"
    if (
        (train.shape[0],) != train_labels.shape
        or (test.shape[0],) != test_labels.shape
        or train.shape[1:] != test.shape[1:]
    ):
        raise ValueError(f"features and labels do not belong together ({shapes}): give [B, F] with [B] twice")
    if not test.shape[0] or len(np.unique(train_labels)) < 2:
        raise ValueError(f"a probe needs two classes to train on and examples to test ({shapes})")
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions={tuple(fractions)} must be in (0, 1]")
