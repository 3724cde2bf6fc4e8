"""What a process of a run does when it, or another one, cannot go on.

Processes that compute together wait for each other: without the others a collective never ends, and a process
that leaves in the usual way waits at its exit for all the others. So a failure ends the process at once, with
a message. The others notice by the closed connection, or, where a host fell silent, by the `Watchdog`.
"""

import os
import re
import sys
import threading
import time
import traceback
from typing import NoReturn

import jax

# What collectives raise when a peer is gone; its class differs between back ends (ValueError with gloo).
_CONNECTION_LOST = re.compile("(UNKNOWN|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|CANCELLED): ")
_ADVICE = (
    "The output of the others may say why. The same command, started on all of them, continues from the "
    "newest whole checkpoint."
)


def leave(reason: str) -> NoReturn:
    """Prints a message and ends this process now with exit status 1: no exit handlers, no waiting."""
    sys.stdout.flush()
    print(f"process {jax.process_index()} of {jax.process_count()} stops. {reason}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def lost_contact(error: object) -> NoReturn:
    """Ends this process because a computation with others failed or they fell silent."""
    first_line = str(error).strip().partition("\n")[0]
    leave(f"It lost contact with another process ({first_line}). {_ADVICE}")


def abort(error: Exception, trace: bool) -> NoReturn:
    """Ends this process because of an error; the others cannot go on without it.

    Args:
      error: what happened.
      trace: whether to show where it comes from.
    """
    if trace:
        traceback.print_exception(error)
    if _CONNECTION_LOST.match(str(error)):
        lost_contact(error)
    leave(f"error: {error}")


class Watchdog:
    """Ends this process when nothing moves: a host that hangs or left the network closes no connection, so
    the others would wait for it for ever.

        with Watchdog(seconds=1800) as watchdog:
            while ...:
                watchdog.alive()  # a step, an evaluation or a checkpoint is done

    Time counts from the first `alive` on: until then programs are compiled, which may take longer than all
    else.

    Attributes:
      seconds: without `alive` after which the process leaves; 0 never, as in runs of one process.
    """

    def __init__(self, seconds: float | int):
        self.seconds = seconds if jax.process_count() > 1 else 0
        self._last: float | None = None
        self._over = threading.Event()

    def alive(self) -> None:
        """Starts the time again."""
        self._last = time.monotonic()

    def pause(self) -> None:
        """Stops the time until the next `alive`: a program will be compiled."""
        self._last = None

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.seconds / 4)):
            last = self._last
            if last is not None and time.monotonic() - last > self.seconds:
                lost_contact(f"nothing was finished in {self.seconds:g} s, see --distributed.stall")
