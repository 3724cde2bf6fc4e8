import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxtok.train.checkpoints import Checkpoints, DamagedCheckpoint


def _mesh(count):
    return jax.make_mesh((count,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def _place(tree, mesh, axis):
    """Shards dimension `axis` of every matrix, replicates the rest."""

    def sharding(leaf):
        names = [None] * leaf.ndim
        if leaf.ndim == 2:
            names[axis] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*names))

    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf)), tree)


def _state(step=0):
    """Parameters, an optimizer state with empty nodes, and the odd dtypes."""
    key = jax.random.key(step)
    params = {"a": {"kernel": jax.random.normal(key, (16, 8))}, "b": jnp.arange(3, dtype=jnp.bfloat16) + step}
    optimizer = optax.partition(
        {"on": optax.adamw(1e-3), "off": optax.set_to_zero()}, {"a": "on", "b": "off"}
    )
    return {
        "step": jnp.int32(step),
        "params": params,
        "optimizer": optimizer.init(params),
        "key": jax.random.key_data(key),
        "used": jnp.array([True, False, True]),
    }


def _abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory):
    """A directory with checkpoints of steps 1 and 2, saved from eight devices."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(
                step, _place(_state(step), _mesh(8), 0), {"position": 10 * step, "config": {"a": [1, None]}}
            )
    return directory


@pytest.fixture
def copied(saved_twice, tmp_path, monkeypatch):
    """A copy to damage. When one read fails, Orbax drops the others: they find their event loop closed."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield Path(shutil.copytree(saved_twice, tmp_path / "copy"))
    time.sleep(0.1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_saved_on_eight_devices_restores_on_fewer_with_other_rules(saved_twice, count):
    target = _place(_state(), _mesh(count), 1)
    with Checkpoints(saved_twice) as checkpoints:
        state, metadata = checkpoints.restore(_abstract(target))
    assert metadata == {"position": 20, "config": {"a": [1, None]}}
    _assert_same(state, _state(2))
    assert state["params"]["a"]["kernel"].sharding == target["params"]["a"]["kernel"].sharding


def test_target_without_shardings_goes_to_one_device(saved_twice):
    shapes = jax.eval_shape(_state)
    with Checkpoints(saved_twice) as checkpoints:
        state, _ = checkpoints.restore(shapes, step=1)
    _assert_same(state, _state(1))
    assert len(state["params"]["a"]["kernel"].devices()) == 1


def test_partial_restore_loads_only_what_is_named(saved_twice):
    target = {"params": {"b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}}
    with Checkpoints(saved_twice) as checkpoints:
        with pytest.raises(ValueError, match=r"unexpected: .*params/a/kernel float32"):
            checkpoints.restore(target)
        state, _ = checkpoints.restore(target, partial=True)
    _assert_same(state, {"params": {"b": _state(2)["params"]["b"]}})


def test_other_configuration_is_an_error_that_lists_the_differences(saved_twice):
    target = _state()
    target["params"] = {"a": {"kernel": jnp.zeros((16, 9))}, "c": jnp.zeros(3)}
    with Checkpoints(saved_twice) as checkpoints, pytest.raises(ValueError) as caught:
        checkpoints.restore(target)
    message = str(caught.value)
    assert "missing: params/c float32[3]" in message
    assert "unexpected: params/b bfloat16[3]" in message
    assert "params/a/kernel float32[16,8] where float32[16,9] is wanted" in message


def _data_file(checkpoint):
    """The file with the arrays' bytes."""
    return max((checkpoint / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)


def _flip(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << (position % 8)
    path.write_bytes(bytes(data))


def test_every_flipped_bit_is_noticed_or_harmless(copied, tmp_path):
    """Flips bits at many places of every file of the newest checkpoint: wrong values never come back."""
    skipped = 0
    pristine = copied / "2"
    for file in sorted(path.relative_to(pristine) for path in pristine.rglob("*") if path.is_file()):
        size = (pristine / file).stat().st_size
        for position in range(1, size, max(size // 3, 1)):
            shutil.rmtree(tmp_path / "try", ignore_errors=True)
            trial = Path(shutil.copytree(copied, tmp_path / "try"))
            _flip(trial / "2" / file, position)
            with Checkpoints(trial) as checkpoints:
                state, metadata = checkpoints.restore(_state())
            _assert_same(state, _state(metadata["position"] // 10))
            skipped += metadata["position"] == 10
    assert skipped > 5


def test_flipped_bit_in_uncompressed_array_is_named(tmp_path, caplog):
    # Random bits do not compress, so the flip lands in the values and no layer below notices.
    state = {"params": {"kernel": jax.random.bits(jax.random.key(0), (64, 1024), jnp.uint32)}}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {})
    file = _data_file(tmp_path / "2")
    _flip(file, file.stat().st_size // 2)
    with Checkpoints(tmp_path) as checkpoints, caplog.at_level(logging.WARNING, "jaxtok"):
        checkpoints.restore(state)
        with pytest.raises(DamagedCheckpoint, match="step 2"):
            checkpoints.restore(state, step=2)
    assert "checkpoint of step 2" in caplog.text


@pytest.mark.parametrize("damage", ["truncate", "remove", "metadata"])
def test_damaged_newest_is_skipped_and_set_aside(copied, damage, caplog):
    file = _data_file(copied / "2") if damage != "metadata" else copied / "2" / "metadata" / "data.json"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-7])
    elif damage == "remove":
        file.unlink()
    else:
        file.write_text(file.read_text().replace('"position": 20', '"position": 21'))
    with Checkpoints(copied) as checkpoints:
        with caplog.at_level(logging.WARNING, "jaxtok"):
            state, metadata = checkpoints.restore(_state())
        assert metadata["position"] == 10 and "step 2" in caplog.text
        checkpoints.save(2, state, {"position": 3})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.restore(_state())[1] == {"position": 3}
    assert (copied / "damaged-2").exists()


def test_a_step_can_be_damaged_twice(copied):
    for attempt in range(2):
        _data_file(copied / "2").unlink()
        with Checkpoints(copied) as checkpoints:
            assert checkpoints.restore(_state())[1]["position"] == 10
            checkpoints.save(2, _state(), {"position": 3 + attempt})
            checkpoints.wait()
            assert checkpoints.steps() == [1, 2]
            assert checkpoints.restore(_state())[1] == {"position": 3 + attempt}
    assert len(list(copied.glob("damaged-*"))) == 1


def test_none_whole_is_an_error(copied):
    for step in (1, 2):
        _data_file(copied / str(step)).unlink()
    with Checkpoints(copied) as checkpoints, pytest.raises(DamagedCheckpoint, match=r"step 2: .*; step 1: "):
        checkpoints.restore(_state())


def test_nothing_saved(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            checkpoints.restore(_state())
    assert not (tmp_path / "none").exists()


def test_keeps_the_newest_and_replaces_a_step(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 3):
            checkpoints.save(step, {"x": jnp.full(4, step)}, {"step": step})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3] and checkpoints.latest() == 3


def test_donation_right_after_save_does_not_change_what_is_saved(tmp_path):
    state = {"x": jnp.arange(1 << 20, dtype=jnp.float32)}
    expected = np.array(state["x"])
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * -3.0 + 7.0, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = overwrite(state)
        restored, _ = checkpoints.restore({"x": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)})
    np.testing.assert_array_equal(restored["x"], expected)


def test_states_and_metadata_that_cannot_be_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="rng is a typed PRNG key"):
            checkpoints.save(1, {"rng": jax.random.key(0)}, {})
        with pytest.raises(ValueError, match="step is 3; a state holds arrays only"):
            checkpoints.save(1, {"step": 3}, {})
        with pytest.raises(ValueError, match="plain JSON"):
            checkpoints.save(1, {"x": jnp.ones(2)}, {"loss": float("nan")})


def test_failed_background_save_raises_at_the_next_call(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.ones(8)}, {})
    checkpoints.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as good as a full disk
    try:
        checkpoints.save(2, {"x": jax.random.bits(jax.random.key(0), (1 << 20,))}, {})
        with pytest.raises(RuntimeError, match=r"step 2 failed.*last whole one is of step 1"):
            while True:
                checkpoints.check()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints.check()
    checkpoints.save(3, {"x": jnp.ones(8)}, {})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1, 3]


_KILLED = """
import os, signal, sys
import jax.numpy as jnp
from jaxtok.train.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": jnp.ones(8)}, {})
checkpoints.wait()
checkpoints.save(2, {"x": jnp.ones(1 << 22)}, {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_saving_leaves_the_one_before(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _KILLED, str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == -9 and result.stderr == ""
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore({"x": jax.ShapeDtypeStruct((8,), jnp.float32)})
        np.testing.assert_array_equal(state["x"], 1)
        checkpoints.save(2, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


def test_saves_leave_no_thread_and_no_file_descriptor(tmp_path):
    """A run saves thousands of times, and 1,024 descriptors are a usual limit."""
    state, counts = {"w": jnp.ones(3)}, []
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        for step in range(6):
            checkpoints.save(step, state, {})
            checkpoints.wait()
            counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[-1] <= counts[1], counts
