"""Tensors on disk: safetensors (one file or a sharded folder), `.npz`, and PyTorch files without their code.

Nothing here unpickles: a checkpoint from a stranger must not be able to run code.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.json_files import read_object

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def read_tensors(
    source: str | os.PathLike | Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a flat state dict.

    Args:
        source: a `.safetensors` file; a folder with one such file or with shards and their
            `*.safetensors.index.json`; an `.npz` file; a PyTorch file (`.pt`, `.pth`, `.bin`, `.ckpt`), read
            with `weights_only=True` when PyTorch is installed; or a mapping of name -> array or PyTorch
            tensor.

    Returns:
        `(tensors, metadata)`: name -> array, and the file's metadata (empty where the format has none).
        bfloat16 from safetensors stays bfloat16 (`ml_dtypes`); from PyTorch it becomes float32.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the format is unknown, the file is damaged, or it holds more than named tensors.
        ModuleNotFoundError: a PyTorch file, and PyTorch is not installed.
    """
    if isinstance(source, Mapping):
        return _named_arrays(source, "the mapping"), {}
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path), {}
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path), {}
    raise ValueError(
        f"cannot read {path.name}: expected .safetensors, .npz, {', '.join(TORCH_SUFFIXES)} or a folder"
    )


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file; a reader never sees half of it, because it is renamed into place.

    Args:
        path: must end in `.safetensors`; the folder must exist.
        tensors: name -> array of any real dtype, bfloat16 included.
        metadata: string -> string.

    Raises:
        ValueError: another suffix.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"tensors are written as .safetensors, got {path.name}; rename the file")
    # save_file reads the raw buffer, so a transposed view would be written in the wrong order.
    dense = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(dense, partial, dict(metadata or {}))
    partial.replace(path)


def _named_arrays(mapping: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    nested = [name for name, value in mapping.items() if not hasattr(value, "shape")]
    if nested:
        raise ValueError(
            f"{where} holds more than tensors, under {nested}; pass one flat state dict, such as x['model']"
        )
    return {name: _as_numpy(value) for name, value in mapping.items()}


def _as_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor, recognised without importing PyTorch
        value = value.detach().cpu()
        # NumPy has no bfloat16 of its own, so PyTorch refuses to hand it over.
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return np.asarray(value)


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}); download or copy it again"
        ) from error


def _read_folder(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    indices, files = sorted(folder.glob("*.safetensors.index.json")), sorted(folder.glob("*.safetensors"))
    if len(indices) > 1 or (not indices and len(files) != 1):
        raise ValueError(
            f"{folder} holds {len(files)} safetensors files and {len(indices)} indices; name one file, "
            "or keep exactly one file, or one *.safetensors.index.json beside its shards"
        )
    if not indices:
        return _read_safetensors(files[0])
    index = read_object(indices[0], {"weight_map": dict}, "Fetch the index again.")
    weight_map: dict[str, str] = index["weight_map"]
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{indices[0]}: weight_map must name a file for each tensor; fetch the index again")
    shards = sorted(set(weight_map.values()))
    absent = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise ValueError(f"{indices[0].name} names shards that are not in {folder}: {absent}; fetch them")
    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for name in shards:
        shard, text = _read_safetensors(folder / name)
        tensors |= shard
        metadata |= text
    if tensors.keys() != weight_map.keys():
        raise ValueError(
            f"{indices[0].name} and its shards disagree about {sorted(tensors.keys() ^ weight_map.keys())}; "
            "fetch them again"
        )
    return tensors, metadata


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError as error:
        raise ValueError(
            f"{path} holds Python objects or is damaged ({error}); save plain arrays with numpy.savez"
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError(
            f"{path.name} is a PyTorch file and PyTorch is not installed; install torch (CPU is enough) or "
            "convert the file to .safetensors"
        )
    import pickle

    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values, which is refused; re-save its state dict"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"{path} holds a {type(loaded).__name__}, expected a state dict; re-save its state dict"
        )
    # DeepSpeed keeps the state dict under "module", beside counters of the training run.
    module = loaded.get("module")
    return _named_arrays(module if isinstance(module, Mapping) else loaded, path.name)
