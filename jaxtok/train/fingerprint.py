"""A 64-bit hash per array that does not depend on how the array is laid out over devices.

Storage layers do not notice a flipped bit inside an array, so every checkpoint carries these. A digest is a
sum of mixed 32-bit words, each mixed with its own position. Integer sums are exact in any order, so the
digest is the same for one device and for a pod, and it is computed where the array lives: no gathering to a
host. The mixing is a bijection of the word, so a change within one word always changes the sum; wider
damage goes unnoticed with probability 2**-64 or so. This protects from accidents, not from somebody who
forges a checkpoint.
"""

import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORDS_PER_BLOCK = 1 << 16  # NumPy's temporaries then stay in the cache


def fingerprint(array: Any) -> str:
    """Hashes the logical array: dtype, shape and every bit of its values.

    Args:
      array: A JAX array (with any sharding, over any number of processes) or a NumPy array.

    Returns:
      A text such as `float32[16,4]:9f0c6b1e5a7d2301`.
    """
    on_host = isinstance(array, np.ndarray) or (
        array.is_fully_addressable and next(iter(array.devices())).platform == "cpu"
    )
    sums = _host_sums(np.asarray(array)) if on_host else jax.device_get(_device_sums(array))
    shape = ",".join(map(str, array.shape))
    return f"{array.dtype}[{shape}]:" + "".join(f"{int(part):08x}" for part in sums)


def _mix(words: Any, positions: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Two sums over mixed words; `words` and `positions` are uint32 arrays of one shape."""
    h = words ^ (positions * xp.uint32(0x9E3779B1))
    h = (h ^ (h >> xp.uint32(16))) * xp.uint32(0x7FEB352D)
    h = (h ^ (h >> xp.uint32(15))) * xp.uint32(0x846CA68B)
    g = (h ^ (h >> xp.uint32(16))) * xp.uint32(0xC2B2AE35)
    return xp.sum(h, dtype=xp.uint32), xp.sum(g ^ (g >> xp.uint32(13)), dtype=xp.uint32)


def _host_sums(array: np.ndarray) -> tuple[int, int]:
    # An accelerator's state is hashed on the device, but on CPU compiling one small program per shape would
    # take longer than hashing: NumPy computes the same sums.
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.itemsize in (1, 2):
        words = flat.view(f"uint{8 * flat.dtype.itemsize}")
    else:
        words = flat.view(np.uint32)
    first = second = 0
    for start in range(0, words.size, _WORDS_PER_BLOCK):
        block = words[start : start + _WORDS_PER_BLOCK].astype(np.uint32)
        positions = np.arange(start, start + block.size, dtype=np.uint64).astype(np.uint32)
        a, b = _mix(block, positions, np)
        first, second = (first + int(a)) % 2**32, (second + int(b)) % 2**32
    return first, second


@jax.jit
def _device_sums(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    words = _as_words(array)
    positions = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        positions += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
    return _mix(words, positions, jnp)


def _as_words(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    bits = min(8 * array.dtype.itemsize, 32)
    return jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)
