"""Which implementation of an operation runs."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])
Implementation = Literal["xla", "pallas_tpu", "pallas_gpu"]

# Where each one is at home. On GPUs XLA is the default and the kernels are there for who asks: Pallas reaches
# them through Triton, which JAX has deprecated, and nobody has timed them against XLA yet.
_PLATFORMS = {"pallas_tpu": ("tpu",), "pallas_gpu": ("cuda", "rocm")}
_PREFERRED: dict[str, Implementation] = {"tpu": "pallas_tpu"}
_TRITON_CAPABILITY = 8.0  # of an NVIDIA GPU, the lowest that Triton compiles for


def target_platform() -> str:
    """The platform that a function traced now will run on: "cpu", "tpu", "cuda" or "rocm".

    A mesh that is set (`jax.set_mesh`, or an abstract mesh with an abstract device) decides before the
    default backend, so that programs can be compiled ahead of time for hardware that is not attached.
    """
    mesh = jax.sharding.get_abstract_mesh()
    device = getattr(mesh, "abstract_device", None)
    if not mesh.empty and device is not None:
        kind, platform = device.device_kind.lower(), getattr(device, "platform", None)
        if platform in ("cuda", "rocm", "tpu", "cpu"):
            return platform
        if "tpu" in kind:
            return "tpu"
        if kind == "cpu":
            return "cpu"
    backend = jax.default_backend()
    if backend != "gpu":
        return backend
    version = getattr(jax.devices()[0].client, "platform_version", "").lower()
    return "rocm" if "rocm" in version else "cuda"


def _load(implementation: F | str) -> F:
    """A function, or the one at "package.module:name": Pallas takes half a second to import."""
    if not isinstance(implementation, str):
        return implementation
    module, name = implementation.split(":")
    return getattr(importlib.import_module(module), name)


def _obstacle(name: Implementation, platform: str) -> str | None:
    """Why this implementation cannot run on a platform; None if it can."""
    homes = _PLATFORMS.get(name)
    if homes and platform not in homes:
        return f"it runs on {' and '.join(homes)}, but this program is traced for {platform}"
    if name == "pallas_gpu" and platform == "cuda" and jax.default_backend() == "gpu":
        capability = float(getattr(jax.devices()[0], "compute_capability", _TRITON_CAPABILITY))
        if capability < _TRITON_CAPABILITY:
            return f"Triton needs compute capability {_TRITON_CAPABILITY}, this GPU has {capability}"
    return None


def choose(
    operation: str,
    implementation: Implementation | None,
    implementations: Mapping[str, F | str],
    interpret: bool = False,
) -> F:
    """The implementation to call.

    Args:
      operation: its name, for messages.
      implementation: what the caller asked for; None for the best that runs on the target platform.
      implementations: those that exist, by name, as functions or as "package.module:name", which is imported
        when it is chosen; "xla" is always among them.
      interpret: a Pallas kernel will be interpreted, which works everywhere.

    Raises:
      ValueError: the one that was asked for does not exist or cannot run on the target platform; the message
        says why.
    """
    platform = target_platform()
    if implementation is None:
        best = _PREFERRED.get(platform)
        if best and best in implementations and not _obstacle(best, platform):
            try:
                return _load(implementations[best])
            except ImportError:  # this JAX has no such Pallas back end any more
                pass
        return _load(implementations["xla"])
    if implementation not in implementations:
        raise ValueError(
            f"{operation} has no implementation {implementation!r}; it has {sorted(implementations)}"
        )
    obstacle = None if interpret else _obstacle(implementation, platform)
    if obstacle:
        raise ValueError(
            f"{operation}: implementation {implementation!r} cannot run here: {obstacle}; use "
            "implementation='xla' or None, or interpret=True to try the kernel out"
        )
    try:
        return _load(implementations[implementation])
    except ImportError as error:
        raise ValueError(
            f"{operation}: implementation {implementation!r} cannot run here: JAX {jax.__version__} has no "
            f"such Pallas back end ({error}); use implementation='xla' or None"
        ) from error
