"""Tensor files: what is written is read, and nothing is ever unpickled."""

import importlib.util
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxtok.tensor_files import read_tensors, write_tensors

TENSORS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # a view that is not contiguous
    "half": np.arange(4).astype(ml_dtypes.bfloat16),
    "scalar": np.asarray(3, np.int64),
}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, TENSORS, {"config": "{}"})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    for source in (path, str(path), tmp_path):
        tensors, metadata = read_tensors(source)
        assert_same(tensors, TENSORS)
        assert metadata == {"config": "{}"}


def test_npz_and_mappings(tmp_path):
    np.savez(tmp_path / "a.npz", w=TENSORS["matrix"])
    assert_same(read_tensors(tmp_path / "a.npz")[0], {"w": TENSORS["matrix"]})
    assert_same(read_tensors(TENSORS)[0], TENSORS)
    with pytest.raises(ValueError, match=r"more than tensors, under \['model'\]"):
        read_tensors({"model": TENSORS})


def test_sharded_folder(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "m-1.safetensors", {"format": "pt"})
    save_file({"b": np.zeros(3)}, tmp_path / "m-2.safetensors")
    with pytest.raises(ValueError, match="2 safetensors files and 0 indices"):
        read_tensors(tmp_path)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    tensors, metadata = read_tensors(tmp_path)
    assert_same(tensors, {"a": np.ones(2), "b": np.zeros(3)})
    assert metadata == {"format": "pt"}
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "c": "m-2.safetensors"}}))
    with pytest.raises(ValueError, match=r"disagree about \['b', 'c'\]"):
        read_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../m-1.safetensors"}}))
    with pytest.raises(ValueError, match="not in"):
        read_tensors(tmp_path)


def test_bad_files_are_plain_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_tensors(tmp_path / "nothing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        read_tensors(tmp_path / "cut.safetensors")
    np.savez(tmp_path / "objects.npz", w=np.array([{}], object))
    with pytest.raises(ValueError, match="Python objects"):
        read_tensors(tmp_path / "objects.npz")
    (tmp_path / "model.h5").touch()
    with pytest.raises(ValueError, match=r"cannot read model\.h5"):
        read_tensors(tmp_path / "model.h5")
    with pytest.raises(ValueError, match="rename the file"):
        write_tensors(tmp_path / "a.npz", TENSORS)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_torch_files_need_torch(tmp_path):
    (tmp_path / "a.pt").touch()
    with pytest.raises(ModuleNotFoundError, match="PyTorch is not installed"):
        read_tensors(tmp_path / "a.pt")


def test_torch_files_hold_tensors_only(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}, tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt")[0], {"w": np.ones(2, np.float32)})
    torch.save({"module": {"w": torch.ones(2)}, "global_steps": 7}, tmp_path / "deepspeed.pt")
    assert_same(read_tensors(tmp_path / "deepspeed.pt")[0], {"w": np.ones(2, np.float32)})
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        read_tensors(tmp_path / "b.pt")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(pytest.raises, protocol=2))
    with pytest.raises(ValueError, match="refused"):
        read_tensors(tmp_path / "evil.bin")
