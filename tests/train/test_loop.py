import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import keys as random
from jaxtok.data.embedded import Digits
from jaxtok.data.errors import BadDataError
from jaxtok.data.folder import ImageFolder
from jaxtok.data.image_files import encode_png
from jaxtok.data.pipeline import Pipeline
from jaxtok.data.webdataset import WebDatasetImages
from jaxtok.evaluate.protocol import Result
from jaxtok.losses.terms import Terms
from jaxtok.train import loop
from jaxtok.train.checkpoints import Checkpoints
from jaxtok.train.diagnostics import NonFiniteError
from jaxtok.train.gradient import gradient
from jaxtok.train.loop import Stopped, fit, stage_key
from jaxtok.train.run import Run
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import MeshShape, make_mesh
from jaxtok.train.stage import Stage
from tests.small_system import assert_trees_close

DATA = Digits(image_sizes=(8,), channels=1, batch_size=8)


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Fits brightness squared by a line with noise: two parameters, any resolution, compiles at once.

    No two are equal, because JAX compiles equal updates once for the whole process.
    """

    traced: list = dataclasses.field(default_factory=list)
    nan_at: int = -1

    def init(self, key, batch, frozen):
        return {"params": {"line": {"slope": jax.random.normal(key, ()), "offset": jnp.float32(0)}}}

    def loss(self, variables, batch, frozen, keys, step):
        self.traced.append(batch["image"].shape)
        x = batch["image"].astype(jnp.float32) / 255
        line, noise = variables["params"]["line"], 0.1 * random.normal(keys, x.shape[1:])
        error = jnp.square(line["slope"] * x + line["offset"] + noise - x**2)
        loss = jnp.mean(error) * jnp.where(step == self.nan_at, jnp.nan, 1.0)
        return Terms(loss, {"loss/curve": loss, "fine": jnp.float32(1)}, {}, {})

    def update_collections(self, collections, statistics, key):
        return collections

    def summarise(self, statistics):
        return {}


class Evaluator:
    """Remembers what it was shown."""

    def __init__(self, act=lambda: None):
        self.seen, self.act = [], act

    def evaluate(self, trained):
        self.act()
        self.seen.append(trained)
        return [Result("images", sum(int(batch["valid"].sum()) for batch in trained.batches()))]

    def figures(self, trained):
        return {"grey": np.zeros((4, 4), np.uint8)}


def stage(steps=12, data=DATA, objective=None, **fields):
    update = gradient(
        objective or Curve(), TrainConfig(steps=12, learning_rate=0.05, warmup_steps=0, ema_decay=0.9)
    )
    return Stage("curve", update, data, steps, **fields)


def run_in(folder, **fields):
    return Run(**{"workdir": str(folder), "log_every": 5, "save_every": 4, "seed": 3, **fields})


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_at(monkeypatch, batch_number):
    """Sends SIGTERM to this process when a batch is on its way to the devices."""
    seen = []

    def device_batch(batch):
        seen.append(1)
        if len(seen) == batch_number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch)

    original = loop.device_batch
    monkeypatch.setattr(loop, "device_batch", device_batch)


def assert_equal_bitwise(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: folder, state, results, evaluator."""
    folder, evaluator = tmp_path_factory.mktemp("whole"), Evaluator()
    state, results = fit(
        stage(evaluator=evaluator), run_in(folder, evaluate_every=6), {}, metadata={"config": {"a": 1}}
    )
    return folder, state, results, evaluator


def test_what_a_run_leaves(whole):
    folder, state, results, evaluator = whole
    assert state["step"] == 12 and results == [Result("images", 297)]
    assert [trained.averaged for trained in evaluator.seen] == [True, True]  # step 6 and the end
    assert evaluator.seen[-1].variables["params"] == state["ema"]
    training = [row for row in lines(folder) if "loss/curve" in row]
    assert [row["step"] for row in training] == [1, 5, 10, 12]
    assert training[-1]["loss/curve"] < training[0]["loss/curve"]
    assert not any(name.startswith("gradient_norm") for name in training[0])
    assert [row["step"] for row in lines(folder) if "eval/images" in row] == [6, 12]
    (line,) = [row["loop"] for row in lines(folder) if "loop" in row]
    assert line.startswith("0 recompilations in steps after the warm-up of 1 batch shape; ")
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert figures == ["curve_grey_0000006.png", "curve_grey_0000012.png"]
    with Checkpoints(folder / "checkpoints" / "curve") as checkpoints:
        assert checkpoints.steps() == [8, 12]
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), jax.device_get(state))
        stored, metadata = checkpoints.restore(shapes)
    assert_equal_bitwise(stored, state)
    fingerprint = metadata.pop("data")
    assert len(fingerprint) == 16
    assert metadata == {"config": {"a": 1}, "stage": "curve", "seed": 3, "step": 12}


@pytest.mark.parametrize("batch_number", [2, 7])
def test_stopped_by_a_signal_and_continued_ends_bitwise_equal(whole, tmp_path, monkeypatch, batch_number):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_at(patch, batch_number + 1)  # the first batch is for the initialisation
        with pytest.raises(Stopped, match=f"curve stopped at step {batch_number} of 12; the same command"):
            fit(stage(), run_in(tmp_path), {})
    assert signal.getsignal(signal.SIGTERM) is before
    state, _ = fit(stage(), run_in(tmp_path), {})
    assert_equal_bitwise(state, whole[1])
    steps = [row["step"] for row in lines(tmp_path)]
    assert steps == sorted(steps) and steps[-1] == 12


def test_a_signal_during_the_evaluation_stops_before_the_next_stage(tmp_path):
    evaluator = Evaluator(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="curve is trained and evaluated"):
        fit(stage(steps=2, evaluator=evaluator), run_in(tmp_path), {})


def test_a_finished_run_trains_nothing(whole):
    folder, state, results, _ = whole
    objective, fresh = Curve(), []
    before = [row for row in lines(folder) if "loss/curve" in row]
    again, same = fit(
        stage(objective=objective, evaluator=Evaluator()), run_in(folder), {}, initialise=fresh.append
    )
    assert_equal_bitwise(again, state)
    assert same == results and objective.traced == [] and fresh == []
    assert [row for row in lines(folder) if "loss/curve" in row] == before


def test_eight_devices_equal_one(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", lambda shape: make_mesh(MeshShape(1), jax.devices()[:1]))
    state, _ = fit(stage(), run_in(tmp_path), {})
    assert len(state["step"].devices()) == 1 and len(whole[1]["step"].devices()) == 8
    assert_trees_close(jax.device_get(state), jax.device_get(whole[1]), 1e-5)


def test_other_data_is_refused(whole):
    other = dataclasses.replace(DATA, flip=True)
    with pytest.raises(ValueError, match=r"stage 'curve' was trained on data with fingerprint .*--init-from"):
        fit(stage(data=other), run_in(whole[0]), {})


def pictures(folder, bad=()):
    """32 small PNG files; the bad ones are cut."""
    folder.mkdir()
    for number in range(32):
        content = encode_png(np.full((8, 8, 1), 8 * number, np.uint8))
        (folder / f"{number:02d}.png").write_bytes(content[:40] if number in bad else content)
    return ImageFolder(path=str(folder), image_sizes=(8,), channels=1, batch_size=8, held_out=8)


def test_corrupt_images_are_replaced_named_and_counted(tmp_path, caplog):
    data = dataclasses.replace(pictures(tmp_path / "pictures", bad=(3, 17)), max_bad_fraction=0.2)
    state, _ = fit(stage(data=data), run_in(tmp_path / "run"), {})
    assert int(state["step"]) == 12
    named = {record.args[0] for record in caplog.records if "cannot be decoded" in record.msg}
    (line,) = [row["loop"] for row in lines(tmp_path / "run") if "loop" in row]
    assert named and named <= {"03.png", "17.png"}
    assert re.search(r"[1-9]\d* of \d+ records could not be decoded and were replaced", line), line


def test_too_many_corrupt_images_stop_the_run(tmp_path):
    data = pictures(tmp_path / "pictures", bad=range(8, 32))
    with pytest.raises(BadDataError, match=r"records cannot be decoded, .* allows: \d\d\.png"):
        fit(stage(data=data), run_in(tmp_path / "run"), {})


def test_a_tar_shard_that_is_cut_short_is_refused_before_the_first_step(tmp_path):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for picture in sorted(Path(pictures(tmp_path / "pictures").path).iterdir()):
            archive.add(picture, picture.name)
    data = WebDatasetImages(path=str(shard), image_sizes=(8,), channels=1, batch_size=8, held_out=8)
    assert int(fit(stage(1, data), run_in(tmp_path / "whole"), {})[0]["step"]) == 1
    content = shard.read_bytes()
    for cut in (700, 1024):
        shard.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"shard\.tar cannot be read as an uncompressed tar file"):
            fit(stage(1, data), run_in(tmp_path / f"cut {cut}"), {})


def test_other_batches_and_workers_are_the_same_data(whole):
    other = dataclasses.replace(DATA, batch_size=16, prefetch=0)
    state, _ = fit(stage(data=other), run_in(whole[0]), {})
    assert state["step"] == 12


def test_a_batch_that_does_not_fit_the_mesh_is_an_early_error(tmp_path):
    with pytest.raises(ValueError, match=r"global batch 12 .* does not divide over 8 devices"):
        fit(stage(data=dataclasses.replace(DATA, batch_size=12)), run_in(tmp_path), {})


def test_a_metric_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(NonFiniteError) as error:
        fit(stage(objective=Curve(nan_at=6)), run_in(tmp_path, log_every=2), {})
    message = str(error.value)
    assert "loss/curve is nan" in message and "fine is" not in message
    assert "at step 7" in message and "Last finite step 6" in message
    assert "Largest gradient norm: line/" in message
    dump = tmp_path / "debug" / "curve" / "step-7"
    assert f"are in {dump}" in message
    assert json.loads((dump / "metrics.json").read_text())["loss/curve"] == "nan"
    seen = np.load(dump / "batch-0.npz")["index"]
    assert seen.tolist() == next(Pipeline(DATA, "train", 3).batches(6))["index"].tolist()
    with Checkpoints(tmp_path / "checkpoints" / "curve") as checkpoints:
        assert checkpoints.steps() == [4]  # the poisoned state was not saved


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path, whole, caplog):
    skipping = stage(objective=Curve(nan_at=6))
    state, _ = fit(skipping, run_in(tmp_path, on_nonfinite="skip", log_every=1), {})
    assert "step 7 skipped, not finite: " in caplog.text and "loss/curve" in caplog.text
    assert "(1 skipped since this run started)" in caplog.text
    rows = lines(tmp_path)
    assert [row["step"] for row in rows if row.get("skipped")] == [7]
    assert state["step"] == 12  # data and schedule go on
    before, _ = fit(stage(steps=6), run_in(tmp_path / "before"), {})
    at_seven, _ = fit(
        dataclasses.replace(skipping, steps=7), run_in(tmp_path / "at", on_nonfinite="skip"), {}
    )
    assert_equal_bitwise({**at_seven, "step": 6}, {**before, "step": 6})
    # Where nothing is skipped, nothing changes.
    same, _ = fit(stage(), run_in(tmp_path / "same", on_nonfinite="skip"), {})
    assert_equal_bitwise(same, whole[1])


def test_too_many_skipped_steps_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPPED_IN_A_ROW", 3)

    class Broken(Curve):
        def loss(self, variables, batch, frozen, keys, step):
            terms = super().loss(variables, batch, frozen, keys, step)
            return dataclasses.replace(terms, total=terms.total * jnp.where(step >= 4, jnp.nan, 1.0))

    with pytest.raises(NonFiniteError, match=r"norm/gradients is nan.* at step 7"):
        fit(stage(objective=Broken()), run_in(tmp_path, on_nonfinite="skip", log_every=1), {})


def test_each_resolution_compiles_once(tmp_path):
    objective, data = Curve(), dataclasses.replace(DATA, image_sizes=(8, 16))
    state, _ = fit(stage(objective=objective, data=data), run_in(tmp_path), {})
    assert sorted(set(objective.traced)) == [(8, 8, 8, 1), (8, 16, 16, 1)]
    assert len(objective.traced) == 2 and state["step"] == 12


def test_initialise_changes_a_fresh_state(tmp_path):
    def initialise(state):
        return {**state, "params": {"line": {"slope": jnp.float32(5), "offset": jnp.float32(6)}}}

    state, _ = fit(stage(steps=0), run_in(tmp_path), {}, initialise=initialise)
    assert state["params"] == {"line": {"slope": 5, "offset": 6}}
    with Checkpoints(tmp_path / "checkpoints" / "curve") as checkpoints:
        assert checkpoints.steps() == [0]  # a stage of no steps leaves its state too


def test_frozen_variables_and_networks_reach_the_update(tmp_path):
    @dataclasses.dataclass(frozen=True, eq=False)
    class Reads(Curve):
        def loss(self, variables, batch, frozen, keys, step):
            terms = super().loss(variables, batch, frozen, keys, step)
            value = frozen["earlier"]["params"] + frozen["network"]["params"]
            return dataclasses.replace(terms, metrics={**terms.metrics, "sum": value})

    frozen = {
        name: {"params": jnp.float32(value)} for name, value in (("earlier", 2), ("network", 3), ("x", 4))
    }
    reads = stage(1, objective=Reads(), frozen=("earlier",), networks={"network": lambda: None})
    fit(reads, run_in(tmp_path), frozen)
    assert lines(tmp_path)[0]["sum"] == 5
    with pytest.raises(KeyError, match="earlier"):
        fit(reads, run_in(tmp_path), {})


def test_keys_of_stages_differ_and_stay():
    data = {
        (seed, name): jax.random.key_data(stage_key(seed, name)).tolist() for seed in (0, 1) for name in "ab"
    }
    assert len({tuple(value) for value in data.values()}) == 4
    assert data[0, "a"] == jax.random.key_data(stage_key(0, "a")).tolist()


def without_notes(folder):
    return [row for row in lines(folder) if "loop" not in row]  # how fast this life of the run was


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    fit(stage(evaluator=Evaluator()), run_in(folder, evaluate_every=6), {})
    return without_notes(folder)


@pytest.mark.parametrize("stopped", [4, 6, 9])
def test_the_metrics_of_an_interrupted_run_are_those_of_an_uninterrupted_one(
    uninterrupted, tmp_path, monkeypatch, stopped
):
    """Also where an evaluation was due at the step of the save, here after six steps."""
    with monkeypatch.context() as patch:
        stop_at(patch, stopped + 1)  # the state is made from a batch too
        with pytest.raises(Stopped, match=f"at step {stopped} "):
            fit(stage(evaluator=Evaluator()), run_in(tmp_path, evaluate_every=6), {})
    seen = []
    watch = lambda name, step, results: seen.append(step)
    fit(stage(evaluator=Evaluator()), run_in(tmp_path, evaluate_every=6), {}, watch=watch)
    assert seen == ([6, 12] if stopped <= 6 else [12])  # what a sweep sees
    assert without_notes(tmp_path) == uninterrupted
    fit(
        stage(evaluator=Evaluator()), run_in(tmp_path, evaluate_every=6), {}
    )  # a finished stage is evaluated again
    assert without_notes(tmp_path) == uninterrupted


class KilledRuns:
    """Runs of `killed_run.py` in a folder."""

    def __init__(self, folder, objective, steps, save_every):
        self.folder, self.arguments = folder, (objective, str(steps), str(save_every))
        pictures = np.random.default_rng(0).integers(0, 256, (72, 8, 8, 1), np.uint8)
        np.save(folder / "pictures.npy", pictures)

    def start(self, name):
        script = Path(__file__).with_name("killed_run.py")
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-W", "error", str(script), str(self.folder / name), *self.arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, name):
        process = self.start(name)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        return output

    def kill(self, name, when):
        """Kills a run as soon as `when(line)` says so; the last step that it had printed."""
        process, last = self.start(name), 0
        for line in process.stdout:
            last = int(line.split("/")[0].split()[-1]) if line.startswith("tokenizer ") else last
            if when(line):
                process.kill()
                break
        rest = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, rest
        return last


@pytest.mark.parametrize(
    "objective, kills, steps",
    [
        pytest.param("codes", 5, 150, marks=pytest.mark.slow),
        pytest.param("codes", 20, 600, marks=pytest.mark.exhaustive),
        pytest.param("vq", 5, 150, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_and_started_again_ends_bitwise_equal(tmp_path, objective, kills, steps):
    runs, random = KilledRuns(tmp_path, objective, steps, save_every=7), np.random.default_rng(0)
    checkpoints = tmp_path / "killed" / "checkpoints" / "tokenizer"
    amid_saves, reached, last_saved = 0, [], []
    for number in range(kills):
        lines, seen = int(random.integers(4, 60)), []
        old = set(checkpoints.glob("*tmp*"))

        def random_moment(line, lines=lines, seen=seen):
            seen.append(line.startswith("tokenizer "))
            return sum(seen) >= lines

        def amid_a_save(line, old=old):
            return line.startswith("tokenizer ") and set(checkpoints.glob("*tmp*")) - old

        reached.append(runs.kill("killed", amid_a_save if number % 2 == 0 else random_moment))
        amid_saves += bool(set(checkpoints.glob("*tmp*")) - old)
        last_saved.append(
            max((int(path.name) for path in checkpoints.glob("[0-9]*") if path.name.isdigit()), default=0)
        )
    assert amid_saves >= kills // 5 and last_saved == sorted(last_saved), (reached, last_saved)
    assert max(reached) > (50 if kills > 5 else 40), reached  # more than the longest of the lives does
    assert len(list(checkpoints.glob("*tmp*"))) <= 1, "halves of old saves pile up"
    again, whole = runs.finish("killed"), runs.finish("whole")
    assert f"tokenizer 1/{steps}" in whole and f"tokenizer 1/{steps}" not in again, "it started over"
    assert again.splitlines()[-1] == whole.splitlines()[-1]  # hashes of every array of the state
    metrics = without_notes(tmp_path / "whole")
    assert without_notes(tmp_path / "killed") == metrics
    assert sum("eval/size" in row for row in metrics) == -(-steps // 21)  # and at the end
