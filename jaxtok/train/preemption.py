"""Stopping a run at the end of a step when the scheduler or the user asks for it."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


class StopSignal:
    """Turns SIGTERM (preemption) and the first Ctrl-C into a flag for the loop, which then saves and leaves.

    A second Ctrl-C interrupts at once. The former handlers come back at the end. Signals reach only the main
    thread; in another one this is never set.

        with StopSignal() as stop:
            while step < steps and not stop.agreed():
                ...
    """

    def __init__(self) -> None:
        self.requested = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("%s: saving at the end of this step, then stopping", signal.Signals(number).name)

    def agreed(self) -> bool:
        """Whether any process was asked to stop. With several processes this is a small collective: call it
        from all of them at the same steps."""
        if jax.process_count() == 1:
            return self.requested
        return bool(np.any(multihost_utils.process_allgather(np.array(self.requested))))
