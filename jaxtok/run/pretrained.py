"""Trained systems from disk and to disk: a run, or a folder of `config.json` and `model.safetensors`."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.aliases import current_path
from jaxtok.config_files import from_json, to_json
from jaxtok.json_files import check_object, parse_json, read_object
from jaxtok.param_trees import flatten, unflatten
from jaxtok.run.trained import Trained
from jaxtok.systems.registry import system_class, system_name
from jaxtok.tensor_files import read_tensors, write_tensors
from jaxtok.train.checkpoints import Checkpoints

log = logging.getLogger(__name__)

_RUN_FIELDS = {"experiment": str, "config": dict}
_REMEDY = "Is this the work directory of a run? Start the run again in another one."


def load(path: str | Path, averaged: bool = True) -> Trained:
    """A trained system from a work directory or from a folder of `save_pretrained`.

    Args:
      path: the directory.
      averaged: use the running average of the parameters where a run has one, else the raw ones.

    Raises:
      FileNotFoundError: neither of the two is there.
      ValueError: an unknown system or configuration.
    """
    path = Path(path)
    if (path / "model.safetensors").exists():
        return from_pretrained(path)
    record = read_config(path)
    if "model" not in record["config"]:
        raise ValueError(f"{path / 'config.json'} has no model in its config. {_REMEDY}")
    kind = system_class(record.get("system", record["experiment"]))
    model = from_json(kind, record["config"]["model"], "model")
    variables = run_variables(path, model, averaged)
    if model.has_tokenizer and "tokenizer" not in variables:
        raise FileNotFoundError(f"no checkpoint of a tokenizer in {path}; train it first")
    if not variables:
        raise FileNotFoundError(f"no checkpoint in {path}; train it first, if it has something to train")
    return Trained(model, variables, {**record, "averaged": averaged})


def read_config(workdir: Path) -> dict[str, Any]:
    """The `config.json` of a run.

    Raises:
      FileNotFoundError: there is none.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} holds no run (no config.json) and no pretrained system (no model.safetensors)"
        )
    return read_object(path, _RUN_FIELDS, _REMEDY)


def run_variables(workdir: Path, model: Any, averaged: bool) -> dict[str, Any]:
    """Variables of every stage of a run that has a checkpoint, on this host."""
    found = {name: restore_stage(workdir, name, shapes, averaged) for name, shapes in model.shapes().items()}
    return {name: restored.variables for name, restored in found.items() if restored is not None}


@dataclasses.dataclass(frozen=True)
class Restored:
    """The variables of one stage of a run.

    Attributes:
      variables: "params" and other collections, on this host.
      averaged: whether the parameters are the running average.
      step: after how many optimizer steps they were saved.
    """

    variables: dict[str, Any]
    averaged: bool
    step: int


def restore_stage(
    workdir: Path, stage: str, shapes: Mapping[str, Any], averaged: bool = True
) -> Restored | None:
    """The newest whole checkpoint of a stage, or None where it has none.

    Args:
      workdir: the run.
      stage: name of the stage.
      shapes: of its "params" and other collections.
      averaged: take the running average where the stage has one.
    """
    folder = workdir / "checkpoints" / stage
    if not folder.exists():
        return None
    collections = {name: value for name, value in shapes.items() if name != "params"}
    with Checkpoints(folder) as checkpoints:
        if checkpoints.latest() is None:
            return None
        if averaged:
            try:
                state, saved = checkpoints.restore({"ema": shapes["params"], **collections}, partial=True)
                return Restored({"params": state.pop("ema"), **state}, True, saved["step"])
            except ValueError as error:
                if "ema/" not in str(error):
                    raise  # it is not the average that is missing
        state, saved = checkpoints.restore({"params": shapes["params"], **collections}, partial=True)
        return Restored(state, False, saved["step"])


def save_pretrained(trained: Trained, folder: str | Path, licence: str = "not stated") -> None:
    """Writes `config.json` (system, sizes, recommended sampler settings, record, licence) and
    `model.safetensors`, with a hash per tensor in its metadata.

    Args:
      trained: what `load` returned.
      folder: created if absent.
      licence: of the weights.

    Raises:
      ValueError: a weight is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        name: trained.record[name]
        for name in ("experiment", "commit", "versions", "averaged")
        if name in trained.record
    }
    content = {
        "system": system_name(trained.system, trained.record["experiment"]),
        "model": to_json(trained.system),
        "licence": licence,
        "components": sorted(trained.variables),
        "record": record,
    }
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    tensors = {
        path: np.asarray(leaf) for path, leaf in flatten(jax.device_get(dict(trained.variables))).items()
    }
    _refuse("what is to be saved is not finite", _not_finite(tensors))
    hashes = {path: _hash(tensor) for path, tensor in tensors.items()}
    write_tensors(
        folder / "model.safetensors",
        tensors,
        {"format": "jaxtok", "hashes": json.dumps(hashes, sort_keys=True)},
    )


def from_pretrained(folder: str | Path) -> Trained:
    """The inverse of `save_pretrained`; strict.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the weights are not those of the configuration, are not finite, or are not the bytes that
        were saved; everything that differs is listed.
    """
    folder = Path(folder)
    fields = {"system": str, "model": dict}
    content = read_object(folder / "config.json", fields, "Save the system again with save_pretrained.")
    if not isinstance(content.get("components", []), list):
        raise ValueError(
            f"{folder / 'config.json'}: components must be a list of names; save the system again"
        )
    model = from_json(system_class(content["system"]), content["model"], "model")
    stored, metadata = read_tensors(folder / "model.safetensors")
    names = {path: current_path(path) for path in stored}
    tensors = {names[path]: tensor for path, tensor in stored.items()}
    if len(tensors) < len(stored):
        twice = [f"{old} and {new}" for old, new in names.items() if old != new and new in stored]
        _refuse(f"{folder} holds tensors under an old name and today's", twice)
    shapes = model.shapes()
    # Folders of earlier versions do not say their components; all had a tokenizer.
    present = {path.split("/")[0] for path in tensors}
    components = present.union(content.get("components", ["tokenizer"] if "tokenizer" in shapes else []))
    expected = flatten({name: shapes[name] for name in shapes if name in components})
    found = {path: _described(tensor) for path, tensor in tensors.items()}
    problems = [f"missing {path}" for path in expected if path not in tensors]
    problems += [f"unexpected {path}" for path in tensors if path not in expected]
    problems += [
        f"{path} is {found[path]}, expected {_described(leaf)}"
        for path, leaf in expected.items()
        if path in tensors and found[path] != _described(leaf)
    ]
    _refuse(f"{folder} does not hold the weights of its configuration", problems)
    _refuse(f"{folder} holds weights that are not finite", _not_finite(tensors))
    if "hashes" in metadata:
        where, remedy = f"the entry `hashes` of {folder / 'model.safetensors'}", "Copy that file again."
        hashes = check_object(parse_json(metadata["hashes"], where, remedy), {}, where, remedy)
        changed = [path for path, tensor in stored.items() if hashes.get(path) != _hash(tensor)]
        _refuse(f"{folder / 'model.safetensors'} is damaged, copy it again; these changed", changed)
    else:
        log.warning("%s was saved without hashes, so damage would not be noticed; save it again", folder)
    variables = unflatten(tensors)
    return Trained(
        model,
        variables,
        {
            "experiment": content["system"],
            **content.get("record", {}),
            "licence": content.get("licence", "not stated"),
        },
    )


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _hash(tensor: np.ndarray) -> str:
    """Of a tensor's type, shape and bytes."""
    text = _described(tensor).encode() + b":" + np.ascontiguousarray(tensor).tobytes()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _not_finite(tensors: Mapping[str, np.ndarray]) -> list[str]:
    floating = lambda tensor: jnp.issubdtype(tensor.dtype, jnp.floating)
    finite = lambda tensor: bool(np.isfinite(tensor.astype(np.float32)).all())
    return [path for path, tensor in tensors.items() if floating(tensor) and not finite(tensor)]


def _refuse(what: str, lines: list[str], most: int = 30) -> None:
    if lines:
        more = [f"and {len(lines) - most} more"] if len(lines) > most else []
        raise ValueError(f"{what}:\n  " + "\n  ".join([*lines[:most], *more]))
