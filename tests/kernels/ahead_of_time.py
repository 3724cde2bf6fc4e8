"""Compiling for TPUs and lowering for GPUs on a machine that has neither."""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtok.run.plan.devices import uncached

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}  # the smallest topology that has the chip
GPUS = {"cuda": "NVIDIA H200", "rocm": "gfx942"}


@functools.cache
def _devices(topology: str) -> Sequence[Any]:
    pytest.importorskip("libtpu", reason="TPU programs are compiled by libtpu: pip install jaxtok[plan]")
    # There is no cloud machine to ask, and two test processes may load the compiler at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def tpu_mesh(topology: str, axes: dict[str, int]) -> Mesh:
    """A mesh over the first devices of a topology that is not attached; skips the test without libtpu.

    Args:
      topology: such as "v5e:4x4", or a chip of `CHIPS`.
      axes: sizes of the mesh axes by name.
    """
    shape = tuple(axes.values())
    devices = np.asarray(_devices(CHIPS.get(topology, topology))[: int(np.prod(shape))])
    return Mesh(devices.reshape(shape), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def compile_for_tpu(
    function: Callable[..., Any],
    *arguments: jax.ShapeDtypeStruct,
    topology: str = "v5e",
    axes: dict[str, int] | None = None,
    specs: Sequence[PartitionSpec] | None = None,
) -> Any:
    """The program of XLA:TPU (and Mosaic) for a function of arrays.

    Args:
      function: to compile.
      arguments: shapes and dtypes.
      topology: which TPU.
      axes: the mesh; default one chip.
      specs: how the arguments are sharded; default not at all.

    Returns:
      The compiled program, with `memory_analysis()` and `as_text()`.
    """
    mesh = tpu_mesh(topology, axes or {"data": 1})
    placed = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
        for x, spec in zip(arguments, specs or (PartitionSpec(),) * len(arguments), strict=True)
    ]
    with jax.set_mesh(mesh), uncached():
        return jax.jit(function).lower(*placed).compile()


def lower_for_gpu(function: Callable[..., Any], *arguments: jax.ShapeDtypeStruct, platform: str) -> str:
    """The StableHLO text, Triton kernels included, of a function on one GPU of platform "cuda" or "rocm"."""
    device = AbstractDevice(device_kind=GPUS[platform], platform=platform, num_cores=None)
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh), warnings.catch_warnings():
        # Since JAX 0.11; the kernels name this back end on purpose, and XLA takes over when it is gone.
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def temporary_bytes(compiled: Any) -> int:
    """Memory that a compiled program needs beside its arguments and results, per device."""
    return compiled.memory_analysis().temp_size_in_bytes


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """A float32 array of this shape."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)
