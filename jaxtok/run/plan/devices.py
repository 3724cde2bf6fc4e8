"""Devices to compile for: those of a TPU slice that is not attached, or fake CPU devices in place of GPUs."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxtok.run.plan.chips import Chip, parse_topology

# One device per chip, as JAX has it on Cloud TPUs. The other kinds do so by themselves.
_CHIP_CONFIG = {"v4": {"chip_config_name": "megacore"}}
# There is no cloud machine to ask what it is; the values only keep libtpu from asking, and from saying so.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """What is compiled for.

    Attributes:
      name: as given, such as "v5e:16x16".
      chip: its figures.
      devices: to build a mesh of.
      compiler: which compiler makes the programs.
      caveat: what that compiler does not know about the chip; empty for the chip's own.
      full: compile with all the effort of a run.
    """

    name: str
    chip: Chip
    devices: Sequence[Any]
    compiler: str
    caveat: str = ""
    full: bool = False


def open_topology(name: str) -> Topology:
    """Finds the compiler for a topology.

    Raises:
      ValueError: an unknown topology, no libtpu, or fewer fake devices than asked for.
    """
    chip, count = parse_topology(name)
    if not chip.tpu:
        return _fake(name, chip, count)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology {name} is compiled by libtpu, which is not installed: "
            'pip install "jaxtok[plan]", or plan for --topology gpu:8'
        )
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options: dict[str, Any] = _CHIP_CONFIG.get(chip.name, {})
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # libtpu's errors have no common type over the range of JAX
        raise ValueError(f"--topology {name}: libtpu knows no such slice ({error})") from error
    if len(devices) != count:
        raise ValueError(f"--topology {name} has {len(devices)} devices for {count} chips; libtpu changed")
    return Topology(name, chip, devices, f"XLA:TPU, libtpu {importlib.metadata.version('libtpu')}")


def _fake(name: str, chip: Chip, count: int) -> Topology:
    with contextlib.suppress(RuntimeError):  # JAX has started; it may have enough devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology {name} needs {count} fake CPU devices, this process has {len(devices)}; set "
            f"JAX_NUM_CPU_DEVICES={count} before it starts"
        )
    caveat = (
        f"compiled by XLA:CPU for {count} fake devices, not for {chip.name}: shapes, shardings, collectives "
        "and arithmetic are those of the GPU run; temporaries and bytes moved are only a guide, because the "
        "GPU compiler fuses more and the CPU widens bfloat16 to float32"
    )
    return Topology(name, chip, devices[:count], "XLA:CPU", caveat)


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Without the persistent cache of compiled programs: a TPU program cannot be read back without a TPU."""
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    folder = config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
