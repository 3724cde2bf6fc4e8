import subprocess
import sys
import time

import pytest

from experiments.benchmarks.soak import Life, Options, resident_bytes, soak


def life_of(growth, speed):
    """A life of 100 s whose memory grows by `growth` bytes a second; nothing runs."""
    life = Life.__new__(Life)
    life.steps = [(50 + t, 7 + int(speed * t)) for t in range(100)]
    life.memory = [(50 + t, int(1e9 + growth * t)) for t in range(100)]
    return life


def test_growth_and_speed_are_found():
    leaking, steady = (life_of(growth, 3).record(settle=20) for growth in (1e6, 0))
    assert steady["memory_growth"] == 0 and 0.03 < leaking["memory_growth"] < 0.045
    assert steady["steps_per_second"] == pytest.approx(3)
    assert (steady["first_step"], steady["last_step"]) == (7, 304)
    assert "memory_growth" not in life_of(0, 3).record(settle=99)


def test_resident_memory_counts_children():
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = b\"x\" * 50_000_000; input()'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        for _ in range(1000):
            if resident_bytes(parent.pid) > 50e6:
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"only {resident_bytes(parent.pid)} bytes seen")
    finally:
        parent.communicate(b"\n")
    assert resident_bytes(parent.pid) == 0


@pytest.mark.slow
def test_a_run_that_is_killed_twice_goes_on(tmp_path):
    options = Options(minutes=0.5, least=6, most=10, settle=1, save_every=20)
    found = soak(options, tmp_path / "run")
    assert found["kills"] >= 2
    starts = [life["first_step"] for life in found["lives"]]
    assert starts == sorted(starts) and starts[1] > 1
