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


def give_back_freed_memory() -> None:
    """Gives pages that nothing uses back to the kernel, in some 50 ms; the next step faults its own in again.

    With `keep_freed_memory` blocks of many sizes come and go in one heap that never shrinks by itself, so
    that a run of hours creeps up in memory though it uses no more. Does nothing where that does nothing.
    """
    if _computes_on_cpu() and sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def _computes_on_cpu() -> bool:
    """What can be found out without starting JAX."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and not importlib.util.find_spec("libtpu")
