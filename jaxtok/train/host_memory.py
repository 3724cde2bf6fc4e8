"""Memory of the process on machines that compute on the CPU."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

# Parameters of glibc's `mallopt`, from <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets freed memory stay with the process where JAX computes on the CPU; call it before JAX starts.

    XLA's CPU back end allocates the temporaries of a program at every call, as one block. glibc gets a block
    of that size from the kernel and gives it back, so every training step faults in all of its pages again:
    with it, a step of the `small` tokenizer (batch 32) took a third more CPU time. Peak memory stays the
    same; between peaks it does not shrink. All threads have to share one arena, because only the main one can
    grow to any size.

    Returns:
      Whether it was done: not where an accelerator may be used (their programs live in its memory) and not
      without glibc.
    """
    if not _computes_on_cpu() or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    wanted = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST))
    return all([mallopt(*setting) == 1 for setting in wanted])


def _computes_on_cpu() -> bool:
    """What can be told without starting JAX."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and not importlib.util.find_spec("libtpu")
