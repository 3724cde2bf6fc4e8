"""Starting a run on more than one process (TPU pod, Slurm, MPI, Kubernetes, or by hand)."""

import logging
import os
import re
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
        if self.processes and self.process >= self.processes:
            raise ValueError(
                f"process {self.process} of {self.processes}: numbers run from 0 to {self.processes - 1}."
            )


def initialize(config: Distributed) -> None:
    """Connects the processes of a run, and prints one line about this one. Call it before using any device.

    Does nothing when there is one process (the line goes into the log).

    Raises:
      RuntimeError: The processes did not find each other.
    """
    found = "by hand" if config.coordinator else detect(os.environ)
    if config.mode == "on" or (config.mode == "auto" and found):
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
                f"could not connect the processes ({found or 'told to'}, coordinator "
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
