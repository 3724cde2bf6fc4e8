"""Starting a run on more than one process (TPU pod, Slurm, MPI, Kubernetes, or by hand)."""

import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distributed:
    """How the processes of a run find each other.

    Attributes:
      mode: `auto` connects when the environment shows more than one process, `on` always, `off` never.
      coordinator: `host:port` of process 0, where the cluster does not tell (then give the next two as well).
      process: Number of this process, from 0; -1 when the cluster tells.
      processes: How many there are; 0 when the cluster tells.
      timeout: Seconds to wait for the others at the start.
      stall: Seconds without a finished step, evaluation or checkpoint after which a process stops with a
        message, because another one hangs; 0 is never.
    """

    mode: Literal["auto", "on", "off"] = "auto"
    coordinator: str = ""
    process: int = -1
    processes: int = 0
    timeout: int = 300
    stall: int = 1800

    def __post_init__(self) -> None:
        for name, least in (("timeout", 1), ("stall", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)} seconds; it has to be at least {least}.")
        given = [bool(self.coordinator), self.process >= 0, self.processes > 0]
        if any(given) and not all(given):
            raise ValueError(
                f"coordinator {self.coordinator!r}, process {self.process} and processes {self.processes} "
                "belong together: give all three, or none on a cluster that JAX knows."
            )
        if self.coordinator:
            _host_and_port(self.coordinator)
        if self.processes and self.process >= self.processes:
            raise ValueError(
                f"process {self.process} of {self.processes}: numbers run from 0 to {self.processes - 1}."
            )


def _host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port` or `[IPv6]:port`.

    Raises:
      ValueError: it has another form.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if not found or not 1 <= int(found[3]) < 2**16:
        raise ValueError(
            f"coordinator {address!r} is no address: write host:port of process 0, such as node0:12345, "
            "with a port from 1 to 65535."
        )
    return found[1] or found[2], int(found[3])


def probe_coordinator(config: Distributed) -> None:
    """Finds out what JAX would abort for: a port that is taken, or a coordinator that nobody reaches.

    Process 0 will listen, so the port has to be free; the others wait until somebody listens.

    Raises:
      RuntimeError: the port is taken, or nothing answers within `timeout` seconds.
    """
    host, port = _host_and_port(config.coordinator)
    if config.process == 0:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise RuntimeError(
                f"port {port} of the coordinator {config.coordinator} cannot be used on this machine "
                f"({error.strerror}). Does an earlier run still hold it? Choose another port, for all "
                "processes."
            ) from error
        return
    end, problem = time.monotonic() + config.timeout, ""
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=min(5.0, config.timeout)).close()
            return
        except OSError as error:  # process 0 may start later, and its name may come later still
            problem = error.strerror or str(error)
            time.sleep(min(0.5, config.timeout / 10))
    raise RuntimeError(
        f"no coordinator answers at {config.coordinator} within {config.timeout} s ({problem}). Start "
        "process 0 there, look at the firewall between the machines, or raise the distributed timeout."
    )


def initialize(config: Distributed) -> None:
    """Connects the processes of a run, and prints one line about this one. Call it before using any device.

    Does nothing when there is one process (the line goes into the log).

    Raises:
      RuntimeError: The processes did not find each other.
    """
    found = "by hand" if config.coordinator else detect(os.environ)
    if config.mode == "on" or (config.mode == "auto" and found):
        if config.coordinator:
            probe_coordinator(config)
        try:
            # Otherwise JAX kills this process, with a fatal log, when another one vanishes.
            jax.config.update("jax_enable_recoverability", True)
            jax.distributed.initialize(
                coordinator_address=config.coordinator or None,
                num_processes=config.processes or None,
                process_id=config.process if config.process >= 0 else None,
                local_device_ids=local_devices(os.environ),
                initialization_timeout=config.timeout,
            )
        except Exception as error:
            raise RuntimeError(
                f"could not connect the processes ({found or 'requested'}, coordinator "
                f"{config.coordinator or 'chosen by the cluster'}, timeout {config.timeout} s): {error}. "
                "Check that all processes were started and reach the coordinator, give the distributed "
                "coordinator, process and processes by hand, or set the mode to off to run on this one alone."
            ) from error
    line = (
        f"process {jax.process_index()} of {jax.process_count()} ({found or 'single'}): "
        f"{jax.local_device_count()} local of {jax.device_count()} {jax.default_backend()} devices"
    )
    if jax.process_count() > 1:
        print(line, flush=True)
    else:
        log.info(line)


def finish() -> None:
    """Ends a run of several processes: all wait for the last, then the coordinator leaves last.

    Call it from all of them when everything is done; does nothing with one process. (Processes that JAX takes
    for recoverable do not wait for each other by themselves, and one that finds no coordinator when it leaves
    is killed.)
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("done")
    if jax.process_index() != 0:
        jax.distributed.shutdown()
    multihost_utils.sync_global_devices("gone")
    if jax.process_index() == 0:
        jax.distributed.shutdown()


def to_host(tree: Any) -> Any:
    """A pytree of arrays as NumPy arrays, also where parts of them are on devices of other processes.

    With several processes this is a collective: call it from all of them in the same order.
    """

    def fetch(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return leaf

    return jax.device_get(jax.tree.map(fetch, tree))


def detect(environment: Mapping[str, str]) -> str:
    """Names the launcher if it started more than one process, otherwise returns an empty text.

    JAX itself connects whenever it sees a cluster, which fails on the login shell of a Slurm job or in an
    `sbatch` script without `srun`; here the process count has to be larger than one.

    Args:
      environment: Environment variables.
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    workers = environment.get("TPU_WORKER_HOSTNAMES") or environment.get("TPU_PROCESS_ADDRESSES") or ""
    if "," in workers or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1:
        return "TPU pod"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes job"
    return ""


def local_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of this process when Slurm runs one task per node, otherwise None (JAX decides).

    JAX takes every Slurm task for the owner of one GPU, and would leave the others of the node idle.
    `JAX_LOCAL_DEVICE_IDS=0,1` says something else.

    Args:
      environment: Environment variables.
    """
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4)
    gpus = int(environment.get("SLURM_GPUS_ON_NODE", 0))
    if re.fullmatch(r"1(\(x\d+\))?", tasks) and gpus > 1 and "JAX_LOCAL_DEVICE_IDS" not in environment:
        return list(range(gpus))
    return None
