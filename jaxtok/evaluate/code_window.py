"""A window over the codes of training."""

from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxtok.codes import Array, CodeSpace
from jaxtok.evaluate.codes import CodeStatistics


class CodeWindow:
    """The codes of the last `updates` batches, to scorer usage while training: one batch has too few codes,
    and the whole history has codes that died long ago.
    """

    def __init__(self, space: CodeSpace, tokens: int, updates: int):
        if updates < 1:
            raise ValueError(f"updates={updates}: a window has at least one batch")
        self.space, self.tokens = space, tokens
        self._batches: deque[tuple[np.ndarray, Any]] = deque(maxlen=updates)

    def update(self, codes: Int[Array, "B N Q"], mask: Bool[Array, "B *rest"] | None = None) -> None:
        """Adds a batch and forgets the oldest; see `CodeStatistics.update`."""
        self._batches.append((np.asarray(codes), None if mask is None else np.asarray(mask)))

    def statistics(self) -> CodeStatistics:
        """Counts over the window; those of several hosts `merge`.

        Raises:
          ValueError: see `CodeStatistics.update`.
        """
        found = CodeStatistics(self.space, self.tokens)
        for codes, mask in self._batches:
            found.update(codes, mask)
        return found
