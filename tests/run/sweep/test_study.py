import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from jaxtok.run.sweep.space import Choice, Range
from jaxtok.run.sweep.study import (
    MOST_ATTEMPTS,
    Failed,
    PrunerName,
    SamplerName,
    Worker,
    counted_trials,
    draw,
    open_study,
)
from jaxtok.train.loop import Stopped

ROOT = Path(__file__).parents[3]
SPACE = {"x": Range(-2.0, 2.0), "kind": Choice(("a", "b"))}


def worker(
    folder,
    trials=6,
    sampler: SamplerName = "random",
    progress=None,
    pruner: PrunerName = "none",
    space=SPACE,
    **options,
):
    study = open_study(str(folder / "study.journal"), "sweep", "minimize", {"of": "test"}, pruner)
    on_progress = (lambda line: None) if progress is None else progress.append
    return Worker(study, space, sampler, trials, on_progress=on_progress, **options)


def bowl(trial):
    drawn = draw(trial, SPACE)
    return drawn["x"] ** 2 + (drawn["kind"] == "b")


def values(study):
    return [(trial.params, trial.value) for trial in study.get_trials()]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_is_drawn_depends_on_the_seed_and_the_number(tmp_path, sampler):
    studies = []
    for name, seed, parts in (("a", 3, (14,)), ("b", 3, (5, 14)), ("c", 4, (14,))):
        for trials in parts:  # stopped and started again
            one = worker(tmp_path / name, trials, sampler, seed=seed)
            one.work(bowl)
        studies.append(values(one.study))
    assert studies[0] == studies[1] != studies[2]
    assert len({params["x"] for params, _ in studies[0]}) == 14


def test_a_grid_is_walked_once(tmp_path):
    space = {"x": Choice((0.0, 1.0, 2.0)), "kind": Choice(("a", "b"))}
    one = worker(tmp_path, 6, "grid", space=space)
    one.work(lambda trial: draw(trial, space)["x"])
    assert len({tuple(params.items()) for params, _ in values(one.study)}) == len(values(one.study)) == 6


def test_others_settings_are_refused(tmp_path):
    worker(tmp_path)
    with pytest.raises(ValueError, match="other settings:\n  of: test -> something else"):
        open_study(str(tmp_path / "study.journal"), "sweep", "minimize", {"of": "something else"}, "none")


def test_a_trial_without_a_number_is_reported_and_the_others_go_on(tmp_path):
    progress = []

    def sometimes(trial):
        value = bowl(trial)
        if trial.number == 1:
            raise Failed("the loss is nan")
        return value

    one = worker(tmp_path, progress=progress)
    one.work(sometimes)
    states = [trial.state for trial in one.study.get_trials()]
    assert states.count(TrialState.COMPLETE) == 5 and states[1] == TrialState.FAIL
    assert "fail" in progress[1] and "the loss is nan" in progress[1] and "2 of 6 done" in progress[1]


def test_a_sweep_whose_trials_all_fail_stops(tmp_path):
    def never(trial):
        raise Failed("heads do not divide the width")

    with pytest.raises(ValueError, match=r"the first 5 trials all failed.*heads do not divide"):
        worker(tmp_path, 50).work(never)


def test_a_bad_trial_is_pruned(tmp_path):
    def slowly(trial):
        for step in range(3):
            trial.report(float(trial.number), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(trial.number)

    one = worker(tmp_path, 8, pruner="median")
    one.work(slowly)
    assert [t.state for t in one.study.get_trials()].count(TrialState.PRUNED) == 3


def test_an_interrupted_trial_is_given_to_the_next_with_its_folder(tmp_path):
    class Stop(Exception):
        pass

    def interrupted(trial):
        draw(trial, SPACE)
        raise Stop

    one = worker(tmp_path, 3)
    with pytest.raises(Stop):
        one.work(interrupted)
    (left,) = (t for t in one.study.get_trials() if t.state == TrialState.FAIL)
    seen = []

    def goes_on(trial):
        seen.append((trial.user_attrs["folder"], draw(trial, SPACE)))
        return 0.0

    again = worker(tmp_path, 3)
    again.work(goes_on)
    assert seen[0] == ("0000", left.params) and len(seen) == 3
    assert len(counted_trials(again.study.get_trials())) == 3


CHILD = """
import os, sys, time
from pathlib import Path
from tests.run.sweep.test_study import bowl, worker
def objective(trial):
    value = bowl(trial)
    print("begun", flush=True)
    time.sleep(600)
    return value
worker(Path(sys.argv[1]), 3).work(objective)
"""


def test_a_killed_worker_loses_nothing(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert child.stdout is not None and child.stdout.readline() == b"begun\n"
    (left,) = worker(tmp_path).study.get_trials()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    progress = []
    again = worker(tmp_path, 3, progress=progress)
    again.work(bowl)
    assert "trial 0 was left by a worker that is gone" in progress
    trials = counted_trials(again.study.get_trials())
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    (taken,) = (trial for trial in trials if trial.user_attrs.get("retry_of") == 0)
    assert taken.params == left.params and taken.user_attrs["folder"] == left.user_attrs["folder"]


def test_a_silent_worker_of_another_machine_is_dead_after_some_time(tmp_path):
    one = worker(tmp_path, 1, patience=0.05)
    trial = one.study.ask()
    trial.set_user_attr("worker", {"host": "elsewhere", "pid": 1})
    one.revive()
    assert trial.number not in [t.user_attrs.get("retry_of") for t in one.study.get_trials()]
    one.work(bowl)
    assert [t.user_attrs.get("retry_of") for t in one.study.get_trials()] == [None, 0]


def test_a_trial_that_kills_every_worker_is_given_up(tmp_path):
    class Crash(Exception):
        pass

    def crash(trial):
        raise Crash

    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(Crash):
            worker(tmp_path, 1).work(crash)
    worker(tmp_path, 1).work(bowl)  # nothing is left to do
    assert len(worker(tmp_path).study.get_trials()) == MOST_ATTEMPTS


def test_stops_on_request_do_not_count(tmp_path):
    def stop(trial):
        raise Stopped

    for _ in range(MOST_ATTEMPTS + 1):
        with pytest.raises(Stopped):
            worker(tmp_path, 1).work(stop)
    last = worker(tmp_path, 1)
    last.work(bowl)
    assert [trial.state for trial in counted_trials(last.study.get_trials())] == [TrialState.COMPLETE]


def test_two_workers_share_a_study(tmp_path):
    code = "import sys; from pathlib import Path; from tests.run.sweep.test_study import bowl, worker\n"
    code += "worker(Path(sys.argv[1]), 8).work(bowl)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(command, cwd=ROOT, env=environment)
    worker(tmp_path, 8).work(bowl)
    assert other.wait(60) == 0
    trials = worker(tmp_path).study.get_trials()
    # Two workers may both begin what is the last trial.
    assert 8 <= len(trials) <= 9 and all(trial.state == TrialState.COMPLETE for trial in trials)
    assert all(trial.value is not None and math.isfinite(trial.value) for trial in trials)


def test_a_line_that_a_killed_worker_did_not_finish_is_removed(tmp_path):
    worker(tmp_path, trials=2).work(bowl)
    path = tmp_path / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":8,"cut')
    again = worker(tmp_path, trials=4)
    assert path.read_bytes().startswith(whole) and b"cut" not in path.read_bytes()
    assert not list(tmp_path.glob("*.lock"))
    again.work(bowl)
    assert len(worker(tmp_path).study.get_trials()) == 4


def test_a_damaged_journal_is_named_with_its_line(tmp_path):
    worker(tmp_path, trials=2).work(bowl)
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3][:10] + b"\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"study\.journal cannot be read as a journal of trials: line 4 is"):
        worker(tmp_path)
