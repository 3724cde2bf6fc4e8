"""Freed memory stays with the process: allocating and freeing a large block again faults no pages in."""

import os
import subprocess
import sys

import pytest

from jaxtok.train.host_memory import keep_freed_memory

# Faults while a block of 256 MB is written three more times, and megabytes that the process gives back then.
_PROGRAM = """
import re, resource, sys
from jaxtok.train.host_memory import give_back_freed_memory, keep_freed_memory
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
done = keep_freed_memory() if sys.argv[1] == "keep" else None
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def write():
    block = libc.malloc(ctypes.c_size_t(2**28))
    ctypes.memset(block, 1, 2**28)
    libc.free(block)
write()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    write()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
give_back_freed_memory()
print(done, faults, held - resident())
"""


def faults(mode):
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, mode],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    done, count, given_back = run.stdout.split()
    return done, int(count), int(given_back)


def test_memory_is_written_without_new_pages():
    done, kept, given_back = faults("keep")
    if done != "True":
        pytest.skip("this C library has no mallopt")
    assert kept < 100 < faults("leave")[1]
    assert given_back > 200


@pytest.mark.parametrize("platforms", ["tpu", "cuda,cpu"])
def test_accelerators_leave_memory_alone(monkeypatch, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert not keep_freed_memory()
