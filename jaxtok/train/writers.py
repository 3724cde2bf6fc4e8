"""Where metrics, figures and notes of a run go: a JSON-lines file, PNG files, and optional services.

The terminal is in `console.py`. Only process 0 writes: `default_writer` gives the others a writer without
destinations, so the loop needs no special cases.
"""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxtok.train.console import ConsoleWriter

log = logging.getLogger(__name__)


@runtime_checkable
class Writer(Protocol):
    """One destination. Everything is on the host already: values are floats and NumPy arrays."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes named numbers; a name such as `loss/bits` is a group and a name."""
        ...

    def image(self, step: int, name: str, image: Any) -> None:
        """Writes a picture: uint8 [H, W, 3] or [H, W], or a Matplotlib figure."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a note."""
        ...

    def hparams(self, values: dict[str, Any]) -> None:
        """Writes the configuration, as plain JSON values."""
        ...

    def close(self) -> None:
        """Flushes and frees the destination."""
        ...


class MultiWriter:
    """Passes everything on to several writers (none is fine)."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = list(writers)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def image(self, step: int, name: str, image: Any) -> None:
        for writer in self._writers:
            writer.image(step, name, image)

    def text(self, step: int, name: str, text: str) -> None:
        for writer in self._writers:
            writer.text(step, name, text)

    def hparams(self, values: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.hparams(values)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class JsonlWriter:
    """One line per call, all stages together: `{"stage": "prior", "step": 10, "loss": 0.3}`.

    Opening it removes the lines of this stage after `step`: a run that resumes writes those steps again, and
    a line cut short by a kill must not spoil the file. So the file ends as that of an uninterrupted run.

    Args:
      path: The file; its directory exists.
      stage: Name of the stage.
      step: The step from which the stage goes on; 0 removes all of its lines.
      evaluates: Whether it goes on with the evaluation of that step, so that the line of an earlier one goes.
    """

    def __init__(self, path: Path, stage: str, step: int = 0, evaluates: bool = False):
        self._stage = stage
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if self._stays(line, step, evaluates)]
            new = path.with_suffix(".new")
            new.write_text("".join(line + "\n" for line in kept))
            os.replace(new, path)
        self._file = open(path, "a")  # noqa: SIM115 - lives as long as the writer

    def _stays(self, line: str, step: int, evaluates: bool) -> bool:
        record = _record(line)
        if record is None or record["stage"] != self._stage:
            return record is not None
        again = evaluates and record["step"] == step and _is_evaluation(record)
        return 0 < record["step"] <= step and not again

    def scalars(self, step: int, values: dict[str, float]) -> None:
        # JSON has no nan and no infinity.
        plain = {name: float(v) if math.isfinite(v) else None for name, v in values.items()}
        self._file.write(json.dumps({"stage": self._stage, "step": step, **plain}) + "\n")
        self._file.flush()

    def image(self, step: int, name: str, image: Any) -> None:
        """Pictures are files, see `PngWriter`."""

    def text(self, step: int, name: str, text: str) -> None:
        self._file.write(json.dumps({"stage": self._stage, "step": step, name: text}) + "\n")
        self._file.flush()

    def hparams(self, values: dict[str, Any]) -> None:
        """The configuration is in `config.json`."""

    def close(self) -> None:
        self._file.close()


def _record(line: str) -> dict[str, Any] | None:
    """A line of `metrics.jsonl`; None for one that was cut short or is none of ours."""
    try:
        record = json.loads(line)
        return record if isinstance(record["stage"], str) and isinstance(record["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_evaluation(record: dict[str, Any]) -> bool:
    return any(name.startswith("eval/") for name in record)


def was_evaluated(workdir: Path, stage: str, step: int) -> bool:
    """Whether the run's metrics hold an evaluation of a stage at a step."""
    path = workdir / "metrics.jsonl"
    records = map(_record, path.read_text(errors="replace").splitlines() if path.exists() else ())
    return any(r and (r["stage"], r["step"]) == (stage, step) and _is_evaluation(r) for r in records)


class PngWriter:
    """Pictures as `<directory>/<stage>_<name>_<step>.png`."""

    def __init__(self, directory: Path, stage: str):
        self._directory, self._stage = directory, stage

    def image(self, step: int, name: str, image: Any) -> None:
        from PIL import Image

        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{self._stage}_{name.replace('/', '_')}_{step:07d}.png"
        if _is_figure(image):
            image.savefig(path, dpi=150, bbox_inches="tight")
        else:
            Image.fromarray(_checked(image)).save(path)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Not pictures."""

    def text(self, step: int, name: str, text: str) -> None:
        """Not pictures."""

    def hparams(self, values: dict[str, Any]) -> None:
        """Not pictures."""

    def close(self) -> None:
        """Nothing is open."""


class TensorBoardWriter:
    """TensorBoard event files in `<directory>/<stage>`; needs the extra `tensorboard`.

    Args:
      directory: Shared by all stages, so that `tensorboard --logdir` shows them together.
      stage: Name of the stage.
      step: The step from which the stage goes on; TensorBoard hides older events after it.
    """

    def __init__(self, directory: Path, stage: str, step: int = 0):
        import tensorboardX

        purge = step + 1 if step else None
        self._events = tensorboardX.SummaryWriter(str(directory / stage), purge_step=purge)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, float(value), step)

    def image(self, step: int, name: str, image: Any) -> None:
        if _is_figure(image):
            self._events.add_figure(name, image, step, close=False)
        else:
            layout = "HW" if np.ndim(image) == 2 else "HWC"
            self._events.add_image(name, _checked(image), step, dataformats=layout)

    def text(self, step: int, name: str, text: str) -> None:
        self._events.add_text(name, text, step)

    def hparams(self, values: dict[str, Any]) -> None:
        # A Markdown code block; TensorBoard's own hparams view takes no nested values.
        self._events.add_text("config", "    " + json.dumps(values, indent=2).replace("\n", "\n    "), 0)

    def close(self) -> None:
        self._events.close()


class WandbWriter:
    """Weights & Biases; needs the extra `wandb`. `WANDB_MODE=offline` keeps everything local.

    Args:
      project: Name of the project.
      workdir: Work directory of the run; running it again continues the same wandb run.
      stage: Name of the stage; metrics are `<stage>/<name>` over `<stage>/step`.
    """

    def __init__(self, project: str, workdir: Path, stage: str):
        import wandb

        self._wandb, self._stage = wandb, stage
        id_file = workdir / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(wandb.util.generate_id())
        self._run = wandb.init(
            project=project, name=workdir.name, dir=str(workdir), id=id_file.read_text(), resume="allow"
        )
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def _log(self, step: int, values: dict[str, Any]) -> None:
        named = {f"{self._stage}/{name}": value for name, value in values.items()}
        self._run.log({f"{self._stage}/step": step, **named})

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._log(step, {name: float(value) for name, value in values.items()})

    def image(self, step: int, name: str, image: Any) -> None:
        self._log(step, {name: self._wandb.Image(image if _is_figure(image) else _checked(image))})

    def text(self, step: int, name: str, text: str) -> None:
        self._log(step, {name: text})

    def hparams(self, values: dict[str, Any]) -> None:
        self._run.config.update(values, allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


def default_writer(
    workdir: Path,
    stage: str,
    *,
    total_steps: int,
    examples_per_step: int,
    step: int = 0,
    evaluates: bool = False,
    wandb_project: str = "",
) -> MultiWriter:
    """The writers of a run: terminal, `metrics.jsonl`, `figures/`, TensorBoard if installed, wandb if named.

    Args:
      workdir: Work directory of the run.
      stage: Name of the stage.
      total_steps: Where the stage ends.
      examples_per_step: Global batch size, for the speed.
      step: The step from which the stage goes on; 0 starts over.
      evaluates: Whether it goes on with the evaluation of that step.
      wandb_project: Weights & Biases project; empty means none.
    """
    if jax.process_index() != 0:
        return MultiWriter([])
    workdir.mkdir(parents=True, exist_ok=True)
    writers: list[Writer] = [
        ConsoleWriter(stage, total_steps, examples_per_step, step),
        JsonlWriter(workdir / "metrics.jsonl", stage, step, evaluates),
        PngWriter(workdir / "figures", stage),
    ]
    if importlib.util.find_spec("tensorboardX"):
        writers.append(TensorBoardWriter(workdir / "tensorboard", stage, step))
    else:
        log.info("no TensorBoard events: pip install 'jaxtok[tensorboard]'")
    if wandb_project:
        writers.append(WandbWriter(wandb_project, workdir, stage))
    return MultiWriter(writers)


def _is_figure(image: Any) -> bool:
    return hasattr(image, "savefig")  # without importing Matplotlib


def _checked(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
        raise ValueError(
            f"a picture is uint8 [H, W] or [H, W, 3]; this one is {image.dtype} {list(image.shape)}. "
            "Convert [-1, 1] floats with (x * 127.5 + 127.5).round().clip(0, 255).astype('uint8')."
        )
    return image
