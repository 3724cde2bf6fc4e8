import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtok.train import process_failure
from jaxtok.train.checkpoints import Checkpoints
from jaxtok.train.distributed import (
    Distributed,
    detect,
    initialize,
    local_devices,
    probe_coordinator,
)


@pytest.mark.parametrize(
    "environment, launcher",
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, ""),  # the batch script or a login shell
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ""),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, "Slurm"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, ""),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, "TPU pod"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ""),  # any container on a cluster, a notebook for example
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "Kubernetes job"),
    ],
)
def test_detects_more_than_one_process(environment, launcher):
    assert detect(environment) == launcher


@pytest.mark.parametrize(
    "environment, devices",
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "4"}, [0, 1, 2, 3]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "1"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4", "JAX_LOCAL_DEVICE_IDS": "1"}, None),
    ],
)
def test_one_slurm_task_per_node_owns_all_its_gpus(environment, devices):
    assert local_devices(environment) == devices


def test_does_nothing_on_one_process(caplog):
    with caplog.at_level("INFO", "jaxtok"):
        initialize(Distributed())
    assert jax.process_count() == 1
    assert "process 0 of 1 (single): 8 local of 8 cpu devices" in caplog.text


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"coordinator": "localhost:1234"}, "belong together"),
        ({"coordinator": "localhost:1234", "process": 2, "processes": 2}, "numbers run from 0 to 1"),
        ({"coordinator": "localhost", "process": 0, "processes": 2}, "write host:port"),
        ({"coordinator": "localhost:port", "process": 0, "processes": 2}, "write host:port"),
        ({"coordinator": "localhost:70000", "process": 0, "processes": 2}, "from 1 to 65535"),
        ({"coordinator": "http://a:80", "process": 0, "processes": 2}, "write host:port"),
    ],
)
def test_incomplete_addresses(fields, message):
    with pytest.raises(ValueError, match=message):
        Distributed(**fields)


@pytest.mark.slow
def test_two_processes_share_batches_checkpoints_and_stop_signals(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", str(script)]
    runs = [
        subprocess.Popen(
            [*command, str(process), port, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)
    assert "process 1 of 2 (by hand): 2 local of 4 cpu devices" in outputs[1]
    with Checkpoints(tmp_path) as checkpoints:  # what two processes saved, one restores
        state, _ = checkpoints.restore(
            {"w": jax.ShapeDtypeStruct((8, 4), np.float32), "step": jax.ShapeDtypeStruct((), np.int32)}
        )
    np.testing.assert_array_equal(state["w"], np.arange(32.0).reshape(8, 4))


def by_hand(port, process, timeout=1):
    return Distributed(coordinator=f"localhost:{port}", process=process, processes=2, timeout=timeout)


def test_a_taken_port_is_reported_before_jax_meets_it():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=rf"port {port} .* cannot be used .*Choose another port"):
            initialize(by_hand(port, 0))
        probe_coordinator(by_hand(port, 1))  # for the others it is what they look for


def test_a_coordinator_that_nobody_reaches_is_reported():
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RuntimeError, match=rf"no coordinator answers at localhost:{port} within 1 s"):
        initialize(by_hand(port, 1))
    probe_coordinator(by_hand(port, 0))


def test_a_watchdog_waits_for_the_first_step(monkeypatch):
    left = []
    monkeypatch.setattr(process_failure, "lost_contact", left.append)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with process_failure.Watchdog(0.05) as watchdog:
        time.sleep(0.3)  # compiles
        assert not left
        watchdog.alive()
        end = time.monotonic() + 30
        while not left and time.monotonic() < end:
            time.sleep(0.01)
        assert left
        watchdog.pause()
        time.sleep(0.1)  # a look that was under way
        left.clear()
        time.sleep(0.2)
        assert not left
