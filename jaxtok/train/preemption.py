"""Stopping a run at the end of a step when the scheduler or the user asks for it."""

import logging
import math
import signal
import threading
import time
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

SECONDS_BETWEEN_QUESTIONS = 5.0  # schedulers leave 30 s or more between SIGTERM and SIGKILL


class StopSignal:
    """Turns SIGTERM (preemption) and the first Ctrl-C into a flag for the loop, which then saves and leaves.

    A second Ctrl-C interrupts at once. The former handlers come back at the end. Signals reach only the main
    thread; in another one this is never set.

        with StopSignal() as stop:
            while step < steps and not stop.agreed(step):
                ...
    """

    def __init__(self) -> None:
        self.requested = False
        self._next, self._interval = 0, 1  # step at which the processes ask each other again
        self._last, self._pace = (0, 0.0), math.inf  # step and time of the last answer; seconds per step
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

    def agreed(self, step: int | None = None) -> bool:
        """Whether any process was asked to stop.

        With several processes agreeing is a small collective that waits for the devices, so it happens every
        few seconds only: call this from all of them at every step.

        Args:
          step: number of the step; None asks the others at once.
        """
        if jax.process_count() == 1:
            return self.requested
        if step is not None and step < self._next:
            return False
        answers = multihost_utils.process_allgather(np.array([self.requested, self._pace], np.float32))
        if step is not None:
            # From the answers of all, so that all come back at the same step.
            wanted = int(SECONDS_BETWEEN_QUESTIONS / max(float(np.max(answers[:, 1])), 1e-3))
            self._interval = max(1, min(wanted, 2 * self._interval))
            self._next = step + self._interval
            # The answer came after all steps before it: dispatching them may have taken no time at all.
            now, (before, then) = time.monotonic(), self._last
            if step > before > 0:
                self._pace = (now - then) / (step - before)
            self._last = step, now
        return bool(np.any(answers[:, 0]))
