"""A study that any number of processes work on, and may die in, on Optuna."""

import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from jaxtok.config_files import differences
from jaxtok.json_files import check_object, parse_json
from jaxtok.run.sweep.space import Choice, Space, listed
from jaxtok.train.loop import Stopped

SamplerName = Literal["tpe", "random", "grid"]
Direction = Literal["maximize", "minimize"]
PrunerName = Literal["none", "median", "halving", "hyperband"]

# What a trial remembers, beside what was drawn.
WORKER, ALIVE, FOLDER, ERROR = "worker", "alive", "folder", "error"
RETRY_OF, ATTEMPTS = "retry_of", "attempts"
# A trial that kills its worker every time must not do so for ever. Being asked to stop does not count.
MOST_ATTEMPTS = 5
MOST_FAILURES = 5  # so many trials that all failed say that the sweep is wrong, not its values

Objective = Callable[[optuna.Trial], float]


class Failed(Exception):
    """A trial that gave no number; the others go on."""


def open_study(
    storage: str, name: str, direction: Direction, about: Mapping[str, Any], pruner: PrunerName
) -> optuna.Study:
    """Opens a study, or makes it.

    Args:
      storage: a file, which is a journal, or the address of a database (anything with "://").
      name: of the study in it.
      direction: "maximize" or "minimize".
      about: what all its workers have to agree on, plain JSON.
      pruner: what gives up trials that look bad early.

    Raises:
      ValueError: the study is there and was begun with something else (the differences are listed), or the
        journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are reported in one line here
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }
    with _plain_errors(storage):
        study = optuna.create_study(
            storage=_storage(storage),
            study_name=name,
            direction=direction,
            pruner=pruners[pruner](),
            load_if_exists=True,
        )
        study.get_trials(deepcopy=False)
        stored = study.user_attrs.get("about")
    about = {**about, "direction": direction}
    if stored is None:
        study.set_user_attr("about", about)
    elif lines := differences(stored, about):
        raise ValueError(
            f"the study {name!r} in {storage} was begun with other settings:\n  "
            + "\n  ".join(lines[:20])
            + "\n"
            "Use another --workdir or --study, or the same settings."
        )
    return study


def _storage(address: str) -> Any:
    if "://" in address:
        return optuna.storages.RDBStorage(address)
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path = Path(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(address)
    if _is_cut(path):
        # A worker was killed while it wrote; what it wrote next would stand in the same line. Nobody else
        # writes while this holds the lock, so what is cut then stays so.
        lock.acquire()
        try:
            if _is_cut(path):
                content = path.read_bytes()
                os.truncate(path, content.rfind(b"\n") + 1)
        finally:
            lock.release()
    return optuna.storages.JournalStorage(JournalFileBackend(address, lock_obj=lock))


def _is_cut(journal: Path) -> bool:
    """Whether the last line of a journal has no end."""
    if not journal.exists() or not journal.stat().st_size:
        return False
    with open(journal, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


@contextlib.contextmanager
def _plain_errors(storage: str) -> Iterator[None]:
    """Whatever a damaged journal makes of Optuna becomes one sentence that names the file and the line."""
    try:
        yield
    except Exception as error:
        if "://" in storage or isinstance(error, OSError):
            raise
        lines = Path(storage).read_bytes().splitlines()
        damaged = next((number for number, line in enumerate(lines, 1) if not _is_entry(line)), None)
        where = f"line {damaged} is no entry of one" if damaged else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{storage} cannot be read as a journal of trials: {where}. Restore it from a copy, or begin "
            "another study with --workdir."
        ) from error


def _is_entry(line: bytes) -> bool:
    try:
        check_object(parse_json(line, "", ""), {"op_code": int, "worker_id": str}, "", "")
    except ValueError:
        return False
    return True


def make_sampler(name: SamplerName, space: Space, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler whose draws depend on the seed and what is known so far."""
    if name == "grid":
        return optuna.samplers.GridSampler(listed(space), seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def draw(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """What a trial tries, by path."""
    drawn = {}
    for path, what in space.items():
        if isinstance(what, Choice):
            drawn[path] = trial.suggest_categorical(path, [what.label(value) for value in what.values])
        elif what.whole:
            drawn[path] = trial.suggest_int(path, int(what.low), int(what.high), log=what.log)
        else:
            drawn[path] = trial.suggest_float(path, what.low, what.high, log=what.log)
    return drawn


@dataclasses.dataclass
class Worker:
    """One of the processes of a study.

    Attributes:
      study: the study.
      space: what is varied.
      sampler: which sampler draws.
      trials: how many trials the study shall have, those of all workers together.
      seed: of the sampler; what a trial draws depends on it, the trial's number and the trials before.
      patience: seconds without a sign of life after which a trial of another machine counts as dead. On the
        same machine a dead process is seen at once.
      on_progress: called with a line for every trial.
      seen: sign of life of each foreign trial, and when this worker first saw it.
      outcomes: how this worker's trials ended.
    """

    study: optuna.Study
    space: Space
    sampler: SamplerName
    trials: int
    seed: int = 0
    patience: float = 600.0
    on_progress: Callable[[str], None] = print
    seen: dict[int, tuple[Any, float]] = dataclasses.field(default_factory=dict)
    outcomes: list[TrialState] = dataclasses.field(default_factory=list)

    def work(self, objective: Objective) -> None:
        """Runs trials until the study has them all; waits for those of others, and takes over what they
        leave.

        Raises:
          ValueError: many trials and all of them failed.
        """
        while True:
            self.revive()
            trials = self.study.get_trials(deepcopy=False)
            counted = counted_trials(trials)
            waiting = any(trial.state == TrialState.WAITING for trial in counted)
            if len(counted) < self.trials or waiting:
                self.one(objective)
            elif any(not trial.state.is_finished() for trial in counted):
                time.sleep(min(self.patience / 10, 2.0))  # of others, who may still die
            else:
                return

    def one(self, objective: Objective) -> None:
        """Runs one trial."""
        self.study.sampler = make_sampler(self.sampler, self.space, self.seed)
        started: list[int] = []

        def watched(trial: optuna.Trial) -> float:
            started.append(trial.number)
            if self.sampler != "grid":  # the number makes the draws of several workers differ
                seed = (self.seed * 1_000_003 + trial.number) % 2**32
                self.study.sampler = make_sampler(self.sampler, self.space, seed)
            trial.set_user_attr(WORKER, {"host": socket.gethostname(), "pid": os.getpid()})
            trial.set_user_attr(FOLDER, trial.user_attrs.get(FOLDER, f"{trial.number:04d}"))
            with signs_of_life(trial, self.patience / 10):
                try:
                    return objective(trial)
                except Failed as failure:
                    trial.set_user_attr(ERROR, str(failure))
                    raise

        try:
            self.study.optimize(watched, n_trials=1, catch=(Failed,))
        except Exception as error:
            # Asked to stop, or an error of the program: whoever starts the command again continues the trial.
            for number in started:
                asked = isinstance(error, Stopped)
                self._again(self.study.get_trials(deepcopy=False)[number], attempts=0 if asked else 1)
            raise
        for number in started:
            self._report(self.study.get_trials(deepcopy=False), number)

    def revive(self) -> None:
        """Gives trials of dead workers back to the study; they continue from their checkpoints."""
        keeper = optuna.load_study(
            study_name=self.study.study_name,
            storage=self.study._storage,
            sampler=optuna.samplers.RandomSampler(),
        )
        for trial in keeper.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._alive(trial):
                continue
            try:
                keeper.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another worker was faster
            self.on_progress(f"trial {trial.number} was left by a worker that is gone")
            self._again(trial)

    def _again(self, trial: FrozenTrial, attempts: int = 1) -> None:
        attempts += trial.user_attrs.get(ATTEMPTS, 0)
        if attempts >= MOST_ATTEMPTS:
            self.on_progress(f"trial {trial.number} was left {attempts} times and is given up")
            return
        # What the worker did not come to draw is drawn by the next.
        attributes = {RETRY_OF: trial.number, ATTEMPTS: attempts}
        folder = trial.user_attrs.get(FOLDER)
        attributes |= {FOLDER: folder} if folder else {}
        self.study.enqueue_trial(trial.params, user_attrs=attributes)

    def _alive(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER, {})
        if worker.get("host") == socket.gethostname():
            return worker["pid"] != os.getpid() and _process_lives(worker["pid"])
        # Clocks of machines differ: what counts is how long this worker has seen no change.
        sign, now = (worker, trial.user_attrs.get(ALIVE)), time.monotonic()
        before, since = self.seen.get(trial.number, (None, now))
        if sign != before:
            self.seen[trial.number] = sign, now
            return True
        return now - since < self.patience

    def _report(self, trials: Sequence[FrozenTrial], number: int) -> None:
        trial = trials[number]
        value = "" if trial.value is None else f" {trial.value:.5g}"
        why = trial.user_attrs.get(ERROR, "")
        drawn = ", ".join(f"{path}={_short(v)}" for path, v in trial.params.items())
        done = sum(other.state.is_finished() for other in counted_trials(trials))
        self.on_progress(
            f"trial {number} {trial.state.name.lower()}{value}: {drawn}{f' ({why})' if why else ''}; "
            f"{done} of {self.trials} done"
        )
        self.outcomes.append(trial.state)
        if len(self.outcomes) >= MOST_FAILURES and set(self.outcomes) == {TrialState.FAIL}:
            raise ValueError(f"the first {len(self.outcomes)} trials all failed, the last one because: {why}")


def counted_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials without those that another one repeats."""
    repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [trial for trial in trials if trial.number not in repeated]


@contextlib.contextmanager
def signs_of_life(trial: optuna.Trial, every: float) -> Iterator[None]:
    """Writes the time into a trial now and then, for workers on other machines."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            trial.set_user_attr(ALIVE, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
