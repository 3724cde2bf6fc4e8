"""The verb `sweep` with real trainings, in processes that die."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from jaxtok.evaluate.protocol import read_results
from jaxtok.run.experiment import Experiment
from jaxtok.run.sweep.options import Sweep
from jaxtok.run.sweep.outcome import write_outcome
from jaxtok.run.sweep.space import Choice, Range
from jaxtok.run.sweep.study import FOLDER
from tests.small_run import small_cli

ROOT = Path(__file__).parents[3]
RATES = ("--space", "tokenizer.learning_rate=1e-4:1e-2:log", "model.quantizer.bits=2,4")
SWEEP = ("--metric", "tokenizer/psnr_uint8", *RATES, "--steps", "3", "--sampler", "random")


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 1.0
    kind: str = "a"


def test_what_comes_back_is_what_the_files_say(tmp_path, capsys):
    space = {"rate": Range(1e-4, 1e-1, log=True), "kind": Choice(("a", "b"))}
    ranges = {
        "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "kind": optuna.distributions.CategoricalDistribution(("a", "b")),
    }
    study = optuna.create_study(direction="maximize")
    for number, (rate, kind) in enumerate([(1e-4, "a"), (1e-2, "b"), (1e-3, "a"), (1e-3, "b")]):
        drawn, attributes = {"rate": rate, "kind": kind}, {FOLDER: f"{number:04d}"}
        study.add_trial(
            optuna.trial.create_trial(
                params=drawn, distributions=ranges, value=100 * rate, user_attrs=attributes
            )
        )
    experiment = Experiment("small", "", {}, lambda config: ())
    outcome = write_outcome(study, experiment, Config(), space, Sweep(str(tmp_path), metric="stage/psnr"))
    assert "the best trials" in capsys.readouterr().out
    assert outcome.config == Config(1e-2, "b") and outcome.metric == "stage/psnr"
    assert json.loads((tmp_path / "best.json").read_text())["config"] == {"rate": 0.01, "kind": "b"}
    assert outcome.trials[0] == ({"rate": 1e-2, "kind": "b"}, 1.0) and len(outcome.trials) == 4
    assert outcome.log == {"rate"}
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "small: maximize stage/psnr" in page and page.count("<tr>") == 5 and page.count("<img ") == 2
    # The result is the rate, whatever the kind.
    assert outcome.shares["rate"] > outcome.shares["kind"] >= 0


def start(workdir, trials):
    command = [sys.executable, "-m", "tests.small_process", "sweep", "--workdir", str(workdir)]
    command += [*SWEEP, "--trials", str(trials)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(tmp_path):
    first, second = start(tmp_path, 3), start(tmp_path, 3)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("tokenizer 1/3"):
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    printed, _ = second.communicate(timeout=300)
    assert second.returncode == 0 and "was left by a worker that is gone" in printed
    assert "the best trials" in printed and "3 of 3 done" in printed
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # Two workers may both begin what is the last trial.
    assert 3 <= len(rows) <= 4 and {row["state"] for row in rows} == {"complete"}
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["value"] == max(float(row["value"]) for row in rows)
    assert (tmp_path / "parallel.png").stat().st_size > 10_000
    assert f"{len(rows)} trials, the best first" in (tmp_path / "sweep.html").read_text(encoding="utf-8")
    kept = [path.parent.name for path in (tmp_path / "trials").glob("*/checkpoints")]
    assert [f"trials/{name}" for name in kept] == [best["folder"]]
    # The configuration that was found trains to the same result.
    words = ("--config", tmp_path / "best.json", "--only", "tokenizer", "--workdir", tmp_path / "again")
    small_cli("train", *words)
    values = {result.name: result.value for result in read_results(tmp_path / "again" / "results.json")}
    assert values["tokenizer/psnr_uint8"] == pytest.approx(best["value"], abs=1e-4)


@pytest.mark.slow
def test_wrong_values_are_rows_of_the_table_and_a_wrong_metric_is_an_error(tmp_path, capsys):
    common = ("sweep", "--metric", "tokenizer/psnr_uint8", "--steps", "1", "--sampler", "grid")
    small_cli(*common, "--workdir", tmp_path / "a", "--space", "tokenizer.learning_rate=-1,0.001")
    with open(tmp_path / "a" / "trials.csv", newline="") as file:
        rows = {float(row["tokenizer.learning_rate"]): row for row in csv.DictReader(file)}
    assert rows[0.001]["state"] == "complete" and rows[-1.0]["state"] == "fail"
    assert "learning_rate is -1.0, it has to be positive" in rows[-1.0]["error"]
    with pytest.raises(SystemExit):
        small_cli(
            *common[:2],
            "tokenizer/no",
            *common[3:],
            "--workdir",
            tmp_path / "b",
            "--space",
            "model.quantizer.bits=4,5",
        )
    assert "no metric 'tokenizer/no'; there are ['tokenizer/" in capsys.readouterr().err
