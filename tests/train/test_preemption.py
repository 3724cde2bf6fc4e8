import os
import signal
import threading

import numpy as np
import pytest

from jaxtok.train import preemption
from jaxtok.train.preemption import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_becomes_a_flag_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert stop.requested and stop.agreed()
    assert signal.getsignal(number) is before


def test_second_interrupt_does_not_wait():
    with StopSignal() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is not None


def test_other_threads_leave_signals_alone():
    def work():
        with StopSignal() as stop:
            seen.append(stop.agreed())

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    "pace, questions", [(0.5, range(20, 30)), (20.0, range(200, 201)), (0.001, range(6, 10))]
)
def test_processes_ask_each_other_every_five_seconds_and_at_the_same_steps(monkeypatch, pace, questions):
    """Two processes of different pace; steps are dispatched in no time and waited for when they ask."""
    clock, sent, done = [0.0], [], [0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)

    def gather(own):
        sent.append(own)
        clock[0] += pace * (step - done[0])
        done[0] = step
        return np.stack([own, [0.0, own[1] / 2]])  # the other is twice as fast

    monkeypatch.setattr(preemption.multihost_utils, "process_allgather", gather)
    stop = StopSignal()
    for step in range(1, 201):
        assert not stop.agreed(step)
    assert len(sent) in questions
    stop.requested = True
    first = step = 201
    while not stop.agreed(step):
        step += 1
    assert (step - first) * pace <= preemption.SECONDS_BETWEEN_QUESTIONS
    assert stop.agreed()  # at once
