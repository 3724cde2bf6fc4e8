import os
import signal
import threading

import pytest

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
