"""What does it save to encode once? Training steps of priors on images against steps on token files.

The compiled steps of a prior take turns in one process: one encodes the images of its batch with the frozen
tokenizer, one reads codes. Both come through the real pipelines. Beside it how fast the data set is encoded,
and after how many epochs of a prior that has paid for itself.

    python -m experiments.benchmarks.pretokenised --preset cifar10 --path ~/cifar10/train.parquet
    python -m experiments.benchmarks.pretokenised --preset tiny
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.benchmarks.timing import take_turns, times_as_fast
from experiments.image import instella_t2i
from jaxtok.config_files import replace_at
from jaxtok.data.dataset import Dataset
from jaxtok.data.pipeline import Pipeline
from jaxtok.run.token_files import encode_data, token_data
from jaxtok.run.trained import Trained
from jaxtok.train.loop import device_batch, iter_closing
from jaxtok.train.sharding import MeshShape, make_mesh, to_global
from jaxtok.train.stage import Stage, inference_variables
from jaxtok.train.step import make_step


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
      preset: of Instella-T2I.
      path: of its data; empty for embedded data.
      priors: which; all without names.
      rounds: turns of each side.
      block_seconds: length of a turn, about.
      out: where the JSON goes.
    """

    preset: str = "cifar10"
    path: str = ""
    priors: tuple[str, ...] = ()
    rounds: int = 7
    block_seconds: float = 6.0
    out: Path = Path("runs/pretokenised.json")


def stepper(stage: Stage, data: Dataset, frozen: Any, mesh: Any) -> Callable[[int], None]:
    """A function that trains a fresh state for a number of steps."""
    step, key = make_step(stage, mesh, frozen, data=data), jax.random.key(0)
    batches = iter_closing(Pipeline(data, "train").batches(0))
    state = step.init(key, to_global(device_batch(next(batches)), mesh), frozen)

    def run(count: int) -> None:
        nonlocal state
        for batch in itertools.islice(batches, count):
            state, _ = step.update(state, to_global(device_batch(batch), mesh), frozen, key)
        jax.block_until_ready(state)

    return run


def measure(options: Options, folder: Path) -> dict[str, Any]:
    """Everything: encoding, and each prior."""
    config = instella_t2i.PRESETS[options.preset]
    if options.path:  # embedded data have none
        config = replace_at(config, "data.path", options.path)
    stages = {stage.name: stage for stage in instella_t2i.stages(config)}
    mesh, first = make_mesh(MeshShape(1), jax.devices()[:1]), stages["tokenizer"]
    step = make_step(first, mesh, {})
    batch = to_global(device_batch(next(Pipeline(first.data, "train").batches(0))), mesh)
    # Untrained: how long encoding takes does not depend on what was learned.
    frozen = {"tokenizer": inference_variables(step.init(jax.random.key(0), batch, {}))}
    system = Trained(config.model, frozen)
    encode_data(system, config.data, folder / "warm", "eval")  # compiles
    start = time.monotonic()
    manifest = encode_data(system, config.data, folder / "tokens")
    seconds = time.monotonic() - start
    found: dict[str, Any] = {
        "options": asdict(options),
        "batch": config.data.batch_size,
        "encoded_images_per_second": manifest.entries / seconds,
        "bytes_per_image": manifest.bytes_per_entry,
        "priors": {},
    }
    for name in options.priors or config.model.priors:
        stage = stages[name]
        assert stage.codes is not None
        tokens = token_data(str(folder / "tokens"), stage.data, stage.codes, frozen)
        with jax.set_mesh(mesh):
            sides = {
                "images": stepper(stage, stage.data, frozen, mesh),
                "tokens": stepper(stage, tokens, frozen, mesh),
            }
            times = take_turns(sides, options.rounds, options.block_seconds, 600)
        per_step = {side: statistics.median(own) for side, own in times["wall"].items()}
        steps_per_epoch = manifest.entries / config.data.batch_size
        saved = (per_step["images"] - per_step["tokens"]) * steps_per_epoch
        found["priors"][name] = {
            "seconds_per_step": per_step,
            "times_as_fast": times_as_fast(times, "tokens")["wall"]["images"],
            "epochs_until_encoding_is_paid": seconds / saved if saved > 0 else None,
        }
        print(name, found["priors"][name], flush=True)
    return found


def main() -> None:
    """Measures, prints and writes."""
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2, default=str) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
