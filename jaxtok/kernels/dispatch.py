"""Which implementation of an operation runs."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])
Implementation = Literal["xla", "pallas_tpu", "pallas_gpu"]

# Where each one is at home. On ROCm, Pallas exists only through Triton, which JAX has deprecated: XLA is the
# default there and the Triton kernel is used when it is asked for.
_PLATFORMS = {"pallas_tpu": ("tpu",), "pallas_gpu": ("cuda", "rocm")}
_PREFERRED = {"tpu": "pallas_tpu", "cuda": "pallas_gpu"}


def target_platform() -> str:
    """The platform that a function traced now will run on: "cpu", "tpu", "cuda" or "rocm".

    A mesh that is set (`jax.set_mesh`, or an abstract mesh with an abstract device) decides before the
    default backend, so that programs can be compiled ahead of time for hardware that is not there.
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


def choose(
    operation: str,
    implementation: Implementation | None,
    implementations: Mapping[str, F],
    interpret: bool = False,
) -> F:
    """The implementation to call.

    Args:
      operation: its name, for messages.
      implementation: what the caller asked for; None for the best that runs on the target platform.
      implementations: those that exist, by name; "xla" is always among them.
      interpret: a Pallas kernel will be interpreted, which works everywhere.

    Raises:
      ValueError: the one that was asked for does not exist or cannot run on the target platform.
    """
    platform = target_platform()
    if implementation is None:
        return implementations.get(_PREFERRED.get(platform, "xla"), implementations["xla"])
    if implementation not in implementations:
        raise ValueError(
            f"{operation} has no implementation {implementation!r}; it has {sorted(implementations)}"
        )
    homes = _PLATFORMS.get(implementation)
    if homes and platform not in homes and not interpret:
        raise ValueError(
            f"{operation}: implementation {implementation!r} runs on {' and '.join(homes)}, but this program is "
            f"traced for {platform}; use implementation='xla' or None, or interpret=True to try the kernel out"
        )
    return implementations[implementation]
