"""Multinomial logistic regression as probes and InfoMEC need it."""

import contextlib
import math
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

_SMALL = 10_000_000  # entries of the features under which threads wait for each other more than they work


def logistic_regression(
    features: Any,
    labels: np.ndarray,
    *,
    penalty: float = math.inf,
    balanced: bool = False,
    iterations: int = 100,
) -> LogisticRegression:
    """Fits by lbfgs and says nothing where the iterations were not enough.

    Args:
      features: [B, F], dense or sparse.
      labels: [B].
      penalty: inverse strength of the squared penalty; infinite for none (a name that old and new versions of
        scikit-learn share).
      balanced: every class weighs the same.
      iterations: at most.
    """
    model = LogisticRegression(
        C=penalty, class_weight="balanced" if balanced else None, max_iter=iterations, tol=1e-4
    )
    size = features.shape[0] * features.shape[1]
    with warnings.catch_warnings(), threadpool_limits(1) if size < _SMALL else contextlib.nullcontext():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)
