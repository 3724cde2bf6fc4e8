"""Does data ever stall the step? The loop with real data against the same loop with one batch over and over.

Both loops run the compiled step of the tokenizer of a preset, with the same copies to the devices; they take
turns in one process. The ratio of their times is 1 where reading, decoding and augmenting hide behind the
step. Beside it the pipeline alone, in images per second, by number of worker processes.

    python -m experiments.benchmarks.data_loop --path ~/cifar10/train.parquet
    python -m experiments.benchmarks.data_loop --preset tiny --workers 0
"""

import dataclasses
import itertools
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.benchmarks.timing import take_turns, times_as_fast
from experiments.image import instella_t2i
from jaxtok.config_files import replace_at
from jaxtok.data.image_data import ImageData
from jaxtok.data.pipeline import Pipeline
from jaxtok.train.loop import device_batch, iter_closing
from jaxtok.train.sharding import MeshShape, make_mesh, to_global
from jaxtok.train.step import make_step


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
      preset: of Instella-T2I.
      path: of its data; empty for embedded data.
      workers: numbers of worker processes to try.
      rounds: turns of each loop.
      block_seconds: length of a turn, about.
      pipeline_seconds: how long the pipeline runs alone, for each number of workers.
      out: where the JSON goes.
    """

    preset: str = "cifar10"
    path: str = ""
    workers: tuple[int, ...] = (0, 1, 2)
    rounds: int = 7
    block_seconds: float = 6.0
    pipeline_seconds: float = 8.0
    out: Path = Path("runs/data_loop.json")


def loop_times(stage: Any, options: Options) -> dict[str, Any]:
    """Times of the two loops, seconds per step, and the ratio."""
    mesh = make_mesh(MeshShape(1), jax.devices()[:1])
    step, key = make_step(stage, mesh, {}), jax.random.key(0)
    batches = iter_closing(Pipeline(stage.data, "train").batches(0))
    first = next(batches)
    with jax.set_mesh(mesh):

        def loop_over(source):
            state = step.init(key, to_global(device_batch(first), mesh), {})

            def run(count: int) -> None:
                nonlocal state
                for batch in itertools.islice(source, count):
                    state, _ = step.update(state, to_global(device_batch(batch), mesh), {}, key)
                jax.block_until_ready(state)

            return run

        sides = {"real": loop_over(batches), "constant": loop_over(itertools.repeat(first))}
        seconds = take_turns(sides, options.rounds, options.block_seconds, 600)
    batches.close()
    return {
        "seconds_per_step": {name: statistics.median(own) for name, own in seconds["wall"].items()},
        "real_over_constant": times_as_fast(seconds, "constant")["wall"]["real"],
    }


def images_per_second(data: ImageData, seconds: float) -> float:
    """How fast the pipeline is alone, after its first batches."""
    batches = iter_closing(Pipeline(data, "train").batches(0))
    for _ in range(2 + 2 * data.workers):
        next(batches)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        next(batches)
        count += data.batch_size
    rate = count / (time.monotonic() - start)
    batches.close()
    return rate


def measure(options: Options) -> dict[str, Any]:
    """Everything, by number of workers."""
    config = instella_t2i.PRESETS[options.preset]
    if options.path:  # embedded data have none
        config = replace_at(config, "data.path", options.path)
    found: dict[str, Any] = {"options": asdict(options), "batch": config.data.batch_size, "workers": {}}
    for workers in options.workers:
        own = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
        stage = next(stage for stage in instella_t2i.stages(own) if stage.name == "tokenizer")
        rate = images_per_second(own.data, options.pipeline_seconds)
        found["workers"][workers] = loop_times(stage, options) | {"pipeline_images_per_second": rate}
        print(workers, found["workers"][workers], flush=True)
    return found


def main() -> None:
    """Measures, prints and writes."""
    options = tyro.cli(Options, description=__doc__)
    found = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2, default=str) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
