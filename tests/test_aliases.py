"""Names that earlier versions stored are read under today's, see `jaxtok.aliases`."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.aliases import current_path
from jaxtok.evaluate.protocol import read_results
from jaxtok.run import from_pretrained, save_pretrained
from jaxtok.run.trained import Trained
from jaxtok.systems.image.var import VAR
from jaxtok.tensor_files import read_tensors, write_tensors
from jaxtok.train.checkpoints import Checkpoints
from tests.small_system import assert_trees_close, random_like

FILE = "model.safetensors"
OLD, NEW = "next_scale/params/told", "next_scale/params/conditioning"


@pytest.mark.parametrize(
    "stored, current",
    [
        ("params/told", "params/conditioning"),
        ("params/denoiser/told/kernel", "params/denoiser/conditioning/kernel"),
        ("optimizer/0/mu/denoiser/told/bias", "optimizer/0/mu/denoiser/conditioning/bias"),
        ("adversary/params/told/bias", "discriminator/params/conditioning/bias"),
        ("params/told_vector/untold/kernel", "params/told_vector/untold/kernel"),
    ],
)
def test_paths_of_leaves(stored, current):
    assert current_path(stored) == current and current_path(current) == current


def test_a_checkpoint_is_read_under_the_names_of_today(tmp_path):
    layer = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"told": layer}, "step": jnp.ones((), jnp.int32)}, {})
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore({"params": {"conditioning": layer}}, partial=True)
    assert_trees_close(state, {"params": {"conditioning": layer}}, 0)


@pytest.fixture(scope="module")
def system():
    model = dataclasses.replace(VAR.tiny(), classes=0)
    return Trained(model, {"next_scale": random_like(model.shapes()["next_scale"])}, {"experiment": "var"})


@pytest.fixture
def folder(system, tmp_path):
    """A folder of `save_pretrained` under the old name, with the hashes that it was saved with."""
    save_pretrained(system, tmp_path)
    tensors, metadata = read_tensors(tmp_path / FILE)
    tensors[OLD] = tensors.pop(NEW)
    hashes = json.loads(metadata["hashes"])
    hashes[OLD] = hashes.pop(NEW)
    write_tensors(tmp_path / FILE, tensors, {**metadata, "hashes": json.dumps(hashes)})
    return tmp_path


def test_a_pretrained_folder_is_read_under_the_names_of_today(system, folder):
    assert_trees_close(from_pretrained(folder).variables, system.variables, 0)


def test_a_changed_tensor_is_named_as_it_is_stored(folder):
    tensors, metadata = read_tensors(folder / FILE)
    write_tensors(folder / FILE, {**tensors, OLD: tensors[OLD] + 1}, metadata)
    with pytest.raises(ValueError, match=rf"these changed:\n  {OLD}$"):
        from_pretrained(folder)


def test_a_tensor_under_both_names_is_refused(folder):
    tensors, metadata = read_tensors(folder / FILE)
    write_tensors(folder / FILE, {**tensors, NEW: tensors[OLD]}, metadata)
    with pytest.raises(ValueError, match=f"{OLD} and {NEW}"):
        from_pretrained(folder)


def test_protocols_of_stored_results(tmp_path):
    stored = {"judge": "svc-rbf 8x8", "judge_accuracy_on_real": 0.5, "images": 3}
    (tmp_path / "results.json").write_text(json.dumps([{"name": "a", "value": 1.0, "protocol": stored}]))
    (result,) = read_results(tmp_path / "results.json")
    assert result.protocol == {"scorer": "svc-rbf 8x8", "scorer_accuracy_on_real": 0.5, "images": 3}
    np.testing.assert_equal(result.value, 1.0)
