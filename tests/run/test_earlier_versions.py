"""What earlier versions wrote is read: a recorded run, its token files and its folder of `save_pretrained`.

`tests/recorded/main_2026_12.zip` was written on 2026-12-01 by the commit 7fb2b69: three steps of TiTok with a
discriminator and of its masked prior, what they make of four images, and the configurations of all presets.
"""

import importlib
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtok.config_files import from_json
from jaxtok.data.pipeline import Pipeline
from jaxtok.data.token_shards import TokenShards
from jaxtok.run import from_pretrained, load
from jaxtok.run.experiment import Experiment, claim_workdir, train
from jaxtok.train.checkpoints import Checkpoints
from jaxtok.train.run import Run
from jaxtok.train.stage import abstract_batch
from tests.experiments.test_experiments import EXPERIMENTS, module_of

RECORDED = Path(__file__).parents[1] / "recorded" / "main_2026_12.zip"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def outputs(recorded):
    with np.load(recorded / "outputs.npz") as found:
        return dict(found)


@pytest.mark.parametrize("source", ["run", "pretrained"])
def test_a_trained_system_does_what_it_did(recorded, outputs, source):
    system = load(recorded / "run") if source == "run" else from_pretrained(recorded / "pretrained")
    np.testing.assert_array_equal(system.encode(outputs["images"]).codes, outputs["codes"])
    restored = system.reconstruct(outputs["images"])
    np.testing.assert_allclose(restored.astype(int), outputs["reconstructions"].astype(int), atol=1)


def test_token_files_are_those_of_the_run(recorded):
    tokens = TokenShards(str(recorded / "tokens"))
    assert len(tokens) == 1500 and tokens.manifest.augmentations == 1
    assert tokens.codes(range(3)).shape == (3, 4, 1)


def configured(recorded):
    titok = importlib.import_module("experiments.image.titok")
    stored = json.loads((recorded / "run" / "config.json").read_text())
    config = from_json(titok.Config, stored["config"])
    assert config.discriminator.weight == 0.1 and config.scorer == "digits"
    return Experiment("titok", "", titok.PRESETS, titok.stages), config


def test_the_state_of_its_training_is_read(recorded):
    """Configuration, data and every leaf of the state, the discriminator's too, are what a run expects."""
    experiment, config = configured(recorded)
    claim_workdir(recorded / "run", experiment, config, Run(str(recorded / "run")))  # refuses another
    stage = next(iter(experiment.stages(config)))
    state = jax.eval_shape(stage.update.init, jax.random.key(0), abstract_batch(stage.data), {})
    with Checkpoints(recorded / "run" / "checkpoints" / "tokenizer") as checkpoints:
        restored, saved = checkpoints.restore(state)
    assert int(restored["step"]) == 3 and "discriminator" in restored
    assert saved["data"] == Pipeline(stage.data).fingerprint


@pytest.mark.slow
def test_its_run_is_evaluated_again(recorded):
    experiment, config = configured(recorded)
    results = train(experiment, config, Run(str(recorded / "run"), only=("tokenizer",)))
    before = {row["name"] for row in json.loads((recorded / "run" / "results.json").read_text())}
    assert {f"tokenizer/{row.name}" for row in results["tokenizer"]} <= before


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_configurations_are_read(recorded, name):
    module = module_of(name)
    stored = json.loads((recorded / "configs.json").read_text())[name]
    for preset, config in stored.items():
        assert from_json(module.Config, config) == module.PRESETS[preset], preset
