"""A whole experiment on two processes, as on two hosts: same results as on one, and what happens when one of
them vanishes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxtok.evaluate.protocol import read_results
from jaxtok.param_trees import flatten
from jaxtok.run.pretrained import load
from tests.small_run import small_cli

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


class Pair:
    """Two processes of one run; their output goes to files, so that neither blocks on a full pipe."""

    def __init__(self, workdir, *flags, stall=600):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        workdir.parent.mkdir(parents=True, exist_ok=True)
        self.outputs = [workdir.with_suffix(f".process{i}") for i in range(2)]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
        self.processes = []
        for number, output in enumerate(self.outputs):
            address = ("coordinator", f"localhost:{port}", "process", number, "processes", 2, "stall", stall)
            pairs = [f"--distributed.{a}={b}" for a, b in zip(address[::2], address[1::2])]
            command = [sys.executable, "-m", "tests.small_process", "train", "--workdir", workdir, *flags]
            with open(output, "w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*map(str, command), *pairs],
                        env=environment,
                        cwd=ROOT,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()

    def text(self, number):
        return self.outputs[number].read_text()

    def wait(self, number, seconds=400):
        return self.processes[number].wait(timeout=seconds)

    def wait_for(self, words, seconds=300):
        end = time.monotonic() + seconds
        while words not in self.text(0):
            assert time.monotonic() < end and self.processes[0].poll() is None, self.text(0)
            time.sleep(0.05)


def test_two_processes_train_evaluate_and_sample_as_one(small_run, tmp_path):
    one, two = small_run[0], tmp_path / "two"
    steps = ("--tokenizer.steps", "3", "--prior.steps", "3", "--only", "diffusion")
    flags = (*steps, "--mesh.data", "1", "--mesh.fsdp", "2")
    with Pair(two, *flags) as pair:
        assert [pair.wait(0), pair.wait(1)] == [0, 0], pair.text(0) + pair.text(1)
        assert "process 1 of 2 (by hand): 1 local of 2 cpu devices" in pair.text(1)
        assert "held-out results" in pair.text(0) and "held-out results" not in pair.text(1)
    expected = {result.name: result.value for result in read_results(one / "results.json")}
    found = {result.name: result.value for result in read_results(two / "results.json")}
    timed = {name for name in found if "samples_per_second" in name}
    assert {name.partition("/")[0] for name in found} == {"tokenizer", "diffusion"} and len(found) > 10
    for name in set(found) - timed:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
    for stage, variables in load(two).variables.items():
        own = flatten(load(one).variables[stage])
        for path, leaf in flatten(variables).items():
            np.testing.assert_allclose(leaf, own[path], rtol=1e-5, atol=1e-6, err_msg=f"{stage} {path}")


def test_preempted_as_two_processes_and_continued_as_one_ends_as_an_uninterrupted_run(tmp_path):
    """SIGTERM reaches one of two processes; both save and leave with 0 within the grace time. One process
    continues from what two have saved.
    """
    # With small steps the order of sums does not grow into other bits, and one step more or less still shows.
    rate, steps_to = 1e-5, ("--tokenizer.steps", "200", "--tokenizer.learning-rate", "1e-5")
    steps = ("--only", "tokenizer", "--log-every", "20", "--save-every", "1000")
    grace = 30  # seconds that schedulers leave between SIGTERM and SIGKILL, the least of the usual ones
    with Pair(tmp_path / "run", *steps, *steps_to) as pair:
        pair.wait_for("tokenizer 20/")
        pair.processes[1].send_signal(signal.SIGTERM)
        assert [pair.wait(number, grace) for number in range(2)] == [0, 0], pair.text(0) + pair.text(1)
        assert "tokenizer stopped at step" in pair.text(0)
    checkpoints = tmp_path / "run" / "checkpoints" / "tokenizer"
    (saved,) = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
    assert 20 <= saved < 200
    for workdir in (tmp_path / "run", tmp_path / "whole"):
        small_cli("train", "--workdir", workdir, *steps, *steps_to)
    continued, whole = (load(tmp_path / name, averaged=False) for name in ("run", "whole"))
    expected = flatten(dict(whole.variables["tokenizer"]))
    for path, leaf in flatten(dict(continued.variables["tokenizer"])).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=0.3 * rate, err_msg=path)


@pytest.mark.parametrize("vanishing, how", [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_the_others_leave_with_a_message_when_one_vanishes(vanishing, how, tmp_path):
    steps = ("--tokenizer.steps", "100000", "--only", "tokenizer", "--log-every", "20", "--save-every", "20")
    stall = 20 if how == signal.SIGSTOP else 600  # counts from the first step on
    with Pair(tmp_path / "run", *steps, stall=stall) as pair:
        pair.wait_for("tokenizer 60/")
        pair.processes[vanishing].send_signal(how)
        staying = 1 - vanishing
        assert pair.wait(staying, 240) == 1, pair.text(staying)
        text = pair.text(staying)
        assert f"process {staying} of 2 stops. It lost contact with another process" in text
        assert "continues from the newest whole checkpoint" in text and "Check failure" not in text
    checkpoints = tmp_path / "run" / "checkpoints" / "tokenizer"
    assert any(path.name.isdigit() for path in checkpoints.iterdir())


def test_an_error_on_one_process_does_not_leave_the_other_waiting(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps({"experiment": "another", "config": {}, "seed": 0}))
    with Pair(workdir) as pair:
        assert [pair.wait(0, 120), pair.wait(1, 120)] == [1, 1]
        assert "holds a run with another configuration" in pair.text(0) + pair.text(1)
