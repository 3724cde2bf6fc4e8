"""The shared train loop. It knows only `Stage.update`; everything about models stands elsewhere."""

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxtok.data.dataset import Dataset
from jaxtok.data.pipeline import Pipeline
from jaxtok.evaluate.protocol import Result
from jaxtok.train.checkpoints import Checkpoints, on_any_process
from jaxtok.train.diagnostics import (
    SKIPPED,
    NonFiniteError,
    check_finite,
    dump_step,
    nonfinite,
)
from jaxtok.train.gradient import GRADIENT_NORM
from jaxtok.train.host_memory import give_back_freed_memory
from jaxtok.train.loop_watch import LoopWatch, Trace
from jaxtok.train.preemption import StopSignal
from jaxtok.train.process_failure import Watchdog
from jaxtok.train.run import Run
from jaxtok.train.sharding import make_mesh, sharding_text, to_global
from jaxtok.train.stage import Stage, State, TrainedStage, Variables, inference_variables, stage_key
from jaxtok.train.start_checks import check_labels
from jaxtok.train.step import make_step, placement_of
from jaxtok.train.writers import MultiWriter, default_writer, was_evaluated

log = logging.getLogger(__name__)

Initialise = Callable[[State], State]
Watch = Callable[[str, int, Sequence[Result]], None]  # (stage, step, results) of every evaluation


MOST_SKIPPED_IN_A_ROW = 20  # with `--on-nonfinite skip`; then the parameters themselves must be bad


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved its state."""


def fit(
    stage: Stage,
    run: Run,
    frozen: Mapping[str, Variables],
    *,
    initialise: Initialise | None = None,
    metadata: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    data: Dataset | None = None,
) -> tuple[State, list[Result]]:
    """Trains one stage, or continues it from the newest whole checkpoint in `run.workdir`.

    Args:
      stage: what.
      run: where and how.
      frozen: variables of the stages and networks that it reads, by name.
      initialise: changes a fresh state before the first step (official or other weights); not called when
        resuming.
      metadata: plain JSON to store with each checkpoint (the configuration).
      watch: called after every evaluation; what it raises ends the run.
      data: trained on in place of the stage's, such as token files of it; the stage is evaluated on its own.

    Returns:
      The final state and the results of the final evaluation.

    Raises:
      Stopped: it was asked to stop and has saved.
      ValueError: data, mesh or checkpoint do not fit.
      NonFiniteError: a metric is nan or infinite; names the step, the term and the module.
    """
    # -- data and mesh: errors of the user come first --
    mesh = make_mesh(run.mesh)
    pipeline = Pipeline(
        data or stage.data,
        "train",
        run.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        classes=stage.classes,
    )
    check_labels(stage, pipeline.source)
    key = stage_key(run.seed, stage.name)
    # -- state: shapes, shardings, then either a checkpoint or a fresh one that is born sharded --
    reads = {name: frozen[name] for name in (*stage.frozen, *stage.networks)}
    skip = run.on_nonfinite == "skip"
    step = make_step(stage, mesh, reads, skip_nonfinite=skip, data=data)
    if mesh.size > 1 and jax.process_index() == 0:
        print(f"{stage.name}: {sharding_text(step.state, placement_of(step.state), mesh)}", flush=True)
    frozen = {name: jax.device_put(frozen[name], placement_of(step.frozen[name])) for name in step.frozen}
    folder = Path(run.workdir) / "checkpoints" / stage.name
    with Checkpoints(folder, run.keep) as checkpoints:
        if checkpoints.latest() is None:
            first = iter_closing(pipeline.batches(0))
            batch = to_global(device_batch(next(first)), mesh)
            first.close()
            with jax.set_mesh(mesh):
                state = step.init(key, batch, frozen)
            if initialise is not None:
                state = jax.device_put(initialise(state), placement_of(step.state))
        else:
            state, saved = checkpoints.restore(step.state)
            check_same_data(saved.get("data"), pipeline.fingerprint, stage.name)
        start = int(state["step"])
        # It was due at the step of the save, and the run ended between the two.
        missed = start < stage.steps and is_due(start, run.evaluate_every)
        missed = missed and not on_any_process(was_evaluated(Path(run.workdir), stage.name, start))
        writer = default_writer(
            Path(run.workdir),
            stage.name,
            total_steps=stage.steps,
            examples_per_step=stage.data.batch_size,
            step=start,
            evaluates=start == stage.steps,
            wandb_project=run.wandb_project,
        )
        describe = {**(metadata or {}), "stage": stage.name, "data": pipeline.fingerprint, "seed": run.seed}
        try:
            with jax.set_mesh(mesh), StopSignal() as stop, Watchdog(run.distributed.stall) as watchdog:
                parts = stage, step.update, run, mesh, pipeline, frozen, key, checkpoints, writer, describe
                loop = _Loop(*parts, watchdog, watch)
                if missed:
                    loop.evaluate(state, start)
                    watchdog.pause()
                state = loop.train(state, start, stop)
                results = loop.evaluate(state, stage.steps)
                if stop.agreed():
                    raise Stopped(
                        f"{stage.name} is trained and evaluated; the same command continues after it"
                    )
        finally:
            writer.close()
    return state, results


@dataclasses.dataclass
class _Loop:
    """The steps of one stage. The order inside matters: check before save, save before the next batch."""

    stage: Stage
    update: Callable[..., Any]
    run: Run
    mesh: Mesh
    pipeline: Pipeline
    frozen: Mapping[str, Any]
    key: jax.Array
    checkpoints: Checkpoints
    writer: MultiWriter
    metadata: Mapping[str, Any]
    watchdog: Watchdog
    watch: Watch | None = None
    pending: list[tuple[int, dict[str, jax.Array]]] = dataclasses.field(default_factory=list)
    last_finite: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def train(self, state: State, start: int, stop: StopSignal) -> State:
        """Runs the steps from `start` on."""
        stage, run = self.stage, self.run
        self.last_finite = start
        batches = iter_closing(self.pipeline.batches(start) if start < stage.steps else iter(()))
        watch, trace = LoopWatch(), Trace(Path(run.workdir) / "profile" / stage.name, run.profile)
        for step in range(start + 1, stage.steps + 1):
            batch = to_global(device_batch(watch.next(batches)), self.mesh)
            state, metrics = watch.call(self.update, state, batch, self.frozen, self.key)
            trace.after(step - start, state)
            self.pending.append((step, metrics))
            self.checkpoints.check()
            last = step == stage.steps
            stopping = not last and stop.agreed(step)
            if (
                step % run.log_every == 0
                or step % run.save_every == 0
                or last
                or stopping
                or step == start + 1
            ):
                self.report(log=step % run.log_every == 0 or last or step == 1)
            if step % run.save_every == 0 or last or stopping:
                self.save(step, state)
            if stopping:
                self.checkpoints.wait()
                batches.close()
                raise Stopped(
                    f"{stage.name} stopped at step {step} of {stage.steps}; the same command continues there"
                )
            if is_due(step, run.evaluate_every) and not last:
                self.evaluate(state, step)
        batches.close()
        trace.close(state)
        if stage.steps > start:
            self.writer.text(stage.steps, "loop", f"{watch.describe()}{self.replaced()}")
        self.checkpoints.wait()
        if self.checkpoints.latest() is None:
            self.save(stage.steps, state)  # a stage of no steps still leaves its state
        self.checkpoints.wait()
        return state

    def replaced(self) -> str:
        """How many records could not be decoded, if any."""
        bad, seen = (self.pipeline.counters[f"records_{name}"] for name in ("bad", "seen"))
        return f"; {bad} of {seen} records could not be decoded and were replaced" if bad else ""

    def report(self, log: bool) -> None:
        """Fetches the metrics of the steps since the last time, checks each of them, writes the newest."""
        for step, values in jax.device_get(self.pending):
            measured = {name: float(value) for name, value in values.items()}
            metrics = {k: v for k, v in measured.items() if not k.startswith(GRADIENT_NORM)}
            self.check_finite(step, measured, metrics)
        self.watchdog.alive()
        if log:
            self.writer.scalars(step, metrics)
        self.pending.clear()

    def check_finite(self, step: int, measured: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Stops the run at a step that is not finite, unless it was skipped and not too many were."""
        if not nonfinite(metrics) and not metrics.get(SKIPPED):
            self.last_finite, self.skipped_in_a_row = step, 0
            return
        bad = ", ".join(nonfinite(measured))
        if metrics.get(SKIPPED):
            self.skipped += 1
            self.skipped_in_a_row += 1
            message = (
                f"step {step} skipped, not finite: {bad} ({self.skipped} skipped since this run started)"
            )
            log.warning("%s: %s", self.stage.name, message)
            if self.skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
                return
        where = self.dump(step, measured)
        norms = {k.removeprefix(GRADIENT_NORM): v for k, v in measured.items() if k.startswith(GRADIENT_NORM)}
        check_finite(metrics, step, self.last_finite, norms, str(where))
        raise NonFiniteError(
            f"{self.skipped_in_a_row} steps in a row up to {step} were skipped, not finite: {bad}. The last "
            f"one is dumped in {where}."
        )

    def dump(self, step: int, measured: Mapping[str, float]) -> Path:
        """Keeps the metrics and the batch of a step that went wrong; the batch is made again."""
        batches = iter_closing(self.pipeline.batches(step - 1))
        folder = Path(self.run.workdir) / "debug" / self.stage.name
        path = dump_step(folder, step, measured, next(batches))
        batches.close()
        return path

    def save(self, step: int, state: State) -> None:
        """Starts an asynchronous checkpoint."""
        self.checkpoints.save(step, state, {**self.metadata, "step": step})
        give_back_freed_memory()
        self.watchdog.alive()

    def evaluate(self, state: State, step: int) -> list[Result]:
        """Evaluates the stage and writes results and figures."""
        if self.stage.evaluator is None:
            return []
        trained = TrainedStage(
            inference_variables(state),
            self.frozen,
            lambda: evaluation_batches(self.stage.data),
            jax.random.fold_in(self.key, step),
            "ema" in state,
        )
        results = self.stage.evaluator.evaluate(trained)
        if results:
            self.writer.scalars(step, {f"eval/{result.name}": result.value for result in results})
        for name, figure in self.stage.evaluator.figures(trained).items():
            self.writer.image(step, name, figure)
        self.watchdog.alive()
        if self.watch is not None:
            self.watch(self.stage.name, step, results)
        return results


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps, never with 0, happens after this one."""
    return every > 0 and step > 0 and step % every == 0


def device_batch(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of a batch goes to the devices: not the record numbers, which are 64-bit and for the host."""
    return {name: value for name, value in batch.items() if name not in ("index", "valid")}


def evaluation_batches(data: Any) -> Iterator[Mapping[str, np.ndarray]]:
    """One pass over the whole evaluation split, on every process alike."""
    return Pipeline(data, "eval").evaluation_batches()


def iter_closing(iterator: Iterator[Any]) -> Generator[Any, None, None]:
    """An iterator whose worker processes end with it."""
    try:
        yield from iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def check_same_data(saved: str | None, current: str, stage: str) -> None:
    """Refuses to resume on other data than the checkpoint was trained on.

    Raises:
      ValueError: the fingerprints differ.
    """
    if saved is not None and saved != current:
        raise ValueError(
            f"stage {stage!r} was trained on data with fingerprint {saved}, the data is now {current}: "
            "its records, or what is done with them, changed. Restore them, or use another --workdir "
            "with --init-from this one."
        )
