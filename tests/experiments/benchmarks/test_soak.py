import os
import subprocess
import sys
import time

import pytest

from experiments.benchmarks import soak as soak_module
from experiments.benchmarks.soak import Life, Options, cpu_seconds, resident_bytes, soak


def life_of(growth, speed):
    """A life of 100 s whose memory grows by `growth` bytes a second; nothing runs."""
    life = Life.__new__(Life)
    life.steps = [(50 + t, 7 + int(speed * t)) for t in range(100)]
    life.cpu = [(50 + t, 9 + 2 * speed * t) for t in range(100)]
    life.memory = [(50 + t, int(1e9 + growth * t)) for t in range(100)]
    life.handles = [(50 + t, (9 + int(growth > 0) * t // 10, 4)) for t in range(100)]
    return life


def test_growth_and_speed_are_found():
    leaking, steady = (life_of(growth, 3).record(settle=20) for growth in (1e6, 0))
    assert (
        steady["descriptors_growth"] == 0 < leaking["descriptors_growth"] and leaking["threads_growth"] == 0
    )
    assert steady["memory_growth"] == 0 and 0.03 < leaking["memory_growth"] < 0.045
    assert steady["steps_per_second"] == pytest.approx(3)
    assert steady["cpu_seconds_per_step"] == pytest.approx(2)
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


def test_processor_time_of_a_process():
    before, own = time.process_time(), cpu_seconds(os.getpid())
    while time.process_time() - before < 0.2:
        pass
    assert 0.15 < cpu_seconds(os.getpid()) - own < 0.6 and cpu_seconds(2**30) == 0


SMALLEST = """
import runpy, sys
sys.path.insert(0, {root!r})
runpy.run_module("tests.small_process", run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(tmp_path, monkeypatch):
    # The smallest model on one device in place of the preset.
    script = tmp_path / "root" / "experiments" / "image" / "instella_t2i.py"
    script.parent.mkdir(parents=True)
    script.write_text(SMALLEST.format(root=str(soak_module.ROOT)))
    monkeypatch.setattr(soak_module, "ROOT", tmp_path / "root")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    records, checkpoints = [], tmp_path / "run" / "checkpoints" / "tokenizer"
    for _ in range(2):
        life = Life(tmp_path / "run", save_every=5)
        life.live(1, lambda: any(path.name.isdigit() for path in checkpoints.glob("*")))
        records.append(life.record(settle=1))
    # Steps are told every twenty, so the last saved one may lie beyond the last that was told.
    assert 1 < records[1]["first_step"] <= records[0]["last_step"] + 20


def test_a_run_that_ends_by_itself_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(soak_module.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="ended by itself"):
        soak(Options(minutes=0.1), tmp_path)
