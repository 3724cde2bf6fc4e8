import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.train import fingerprint as module
from jaxtok.train.fingerprint import fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "uint32", "complex64", "float16"])
def test_device_and_host_agree(dtype):
    array = jax.random.normal(jax.random.key(0), (3, 70, 5)).astype(dtype)
    device = module._device_sums(array)
    assert tuple(int(part) for part in device) == module._host_sums(np.asarray(array))


def test_same_for_any_sharding_and_larger_than_a_block():
    array = jax.random.normal(jax.random.key(0), (512, 300))
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec("a", "b")))
    assert fingerprint(sharded) == fingerprint(array) == fingerprint(np.asarray(array))
    assert tuple(int(part) for part in module._device_sums(sharded)) == module._host_sums(np.asarray(array))


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(0, 31))
def test_any_flipped_bit_changes_it(position, bit):
    words = np.arange(100, dtype=np.uint32)
    flipped = words.copy()
    flipped[position] ^= np.uint32(1) << np.uint32(bit)
    assert fingerprint(words) != fingerprint(flipped)


def test_order_shape_and_dtype_count():
    array = np.arange(12, dtype=np.float32)
    digests = {
        fingerprint(other) for other in (array, array[::-1], array.reshape(3, 4), array.view(np.int32))
    }
    assert len(digests) == 4
    assert fingerprint(jnp.zeros((0, 4))) == "float32[0,4]:0000000000000000"
