"""Trained systems from disk and to disk: a run, or a folder of `config.json` and `model.safetensors`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtok.param_trees import flatten, unflatten
from jaxtok.systems.image.image_system import ImageSystem
from jaxtok.systems.registry import system_class
from jaxtok.tensor_files import read_tensors, write_tensors
from jaxtok.train.checkpoints import Checkpoints
from jaxtok.train.config import from_json, to_json


def load(path: str | Path, averaged: bool = True) -> ImageSystem:
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
    _check_fields(path, record, ("experiment", "config"))
    model = from_json(system_class(record["experiment"]), record["config"]["model"], "model")
    variables = run_variables(path, model, averaged)
    if "tokenizer" not in variables:
        raise FileNotFoundError(f"no checkpoint of a tokenizer in {path}; train it first")
    return ImageSystem(model, variables, {**record, "averaged": averaged})


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
    return json.loads(path.read_text())


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


def save_pretrained(system: ImageSystem, folder: str | Path, licence: str = "not stated") -> None:
    """Writes `config.json` (system, sizes, recommended sampler settings, record, licence) and
    `model.safetensors`.

    Args:
      system: what `load` returned.
      folder: created if absent.
      licence: of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        name: system.record[name]
        for name in ("experiment", "commit", "versions", "averaged")
        if name in system.record
    }
    content = {
        "system": system.record["experiment"],
        "model": to_json(system.model),
        "licence": licence,
        "record": record,
    }
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    tensors = {
        path: np.asarray(leaf) for path, leaf in flatten(jax.device_get(dict(system.variables))).items()
    }
    write_tensors(folder / "model.safetensors", tensors, {"format": "jaxtok"})


def from_pretrained(folder: str | Path) -> ImageSystem:
    """The inverse of `save_pretrained`; strict.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the weights are not those of the configuration; everything that differs is listed.
    """
    folder = Path(folder)
    content = json.loads((folder / "config.json").read_text())
    _check_fields(folder, content, ("system", "model"))
    model = from_json(system_class(content["system"]), content["model"], "model")
    tensors, _ = read_tensors(folder / "model.safetensors")
    variables = unflatten(tensors)
    expected = flatten({stage: shapes for stage, shapes in model.shapes().items() if stage in variables})
    problems = [f"missing {path}" for path in expected if path not in tensors]
    problems += [f"unexpected {path}" for path in tensors if path not in expected]
    problems += [
        f"{path} is {tensors[path].shape}, expected {leaf.shape}"
        for path, leaf in expected.items()
        if path in tensors and tensors[path].shape != leaf.shape
    ]
    if problems:
        raise ValueError(
            f"{folder} does not hold the weights of its configuration:\n  " + "\n  ".join(problems[:30])
        )
    return ImageSystem(
        model,
        variables,
        {
            **content.get("record", {}),
            "experiment": content["system"],
            "licence": content.get("licence", "not stated"),
        },
    )


def _check_fields(folder: Path, content: Any, names: tuple[str, ...]) -> None:
    if absent := [name for name in names if name not in content]:
        raise ValueError(f"{folder / 'config.json'} is not one of ours: it lacks {', '.join(absent)}")
