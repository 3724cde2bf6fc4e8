import json

import numpy as np
import pytest

import jaxtok
from jaxtok.run import from_pretrained, load, save_pretrained
from jaxtok.tensor_files import read_tensors, write_tensors
from tests.small_run import SMALL_CONFIG
from tests.small_system import SMALL, assert_trees_close


@pytest.fixture(scope="module")
def system(small_run):
    return load(small_run[0])


@pytest.fixture
def folder(system, tmp_path):
    save_pretrained(system, tmp_path / "folder", licence="CC0-1.0")
    return tmp_path / "folder"


@pytest.fixture(scope="module")
def images():
    source = SMALL_CONFIG.data.open("eval")
    return np.stack([source[number]["image"] for number in range(4)])


def test_load_gives_a_run_back(small_run, system, images):
    assert jaxtok.load is load
    assert system.system == SMALL and set(system.variables) == {"tokenizer", "diffusion", "autoregressive"}
    assert system.record["experiment"] == "instella_t2i" and system.record["averaged"] is True
    codes = system.encode(images).codes
    assert codes.shape == (4, 3, 4) and set(np.unique(codes)) <= {0, 1}
    assert system.decode(codes).dtype == np.uint8 and system.decode(codes, (16, 8)).shape == (4, 16, 8, 1)
    np.testing.assert_array_equal(system.reconstruct(images), system.decode(codes))
    raw = load(small_run[0], averaged=False)
    with pytest.raises(AssertionError):
        assert_trees_close(raw.variables["tokenizer"], system.variables["tokenizer"], 1e-7)


def test_saved_and_loaded_is_equal(system, folder, images):
    again = from_pretrained(folder)
    assert again.system == system.system and again.record["licence"] == "CC0-1.0"
    assert_trees_close(again.variables, system.variables, 0)
    np.testing.assert_array_equal(again.encode(images).codes, system.encode(images).codes)
    assert again.sample(["a"], "diffusion")[0].shape == (1, 8, 8, 1)
    via_load = load(folder)
    assert_trees_close(via_load.variables, system.variables, 0)
    content = json.loads((folder / "config.json").read_text())
    assert content["model"]["diffusion_settings"]["steps"] == 2  # recommended settings travel along
    assert content["system"] == "instella_t2i" and content["licence"] == "CC0-1.0"


def test_a_folder_can_be_saved_again(folder, tmp_path):
    save_pretrained(from_pretrained(folder), tmp_path / "again", licence="CC0-1.0")
    first, second = (read_tensors(path / "model.safetensors")[0] for path in (folder, tmp_path / "again"))
    assert_trees_close(second, first, 0)


def test_a_sample_depends_on_its_seed_and_place_only(system):
    captions = ["a handwritten seven", "a handwritten two"]
    both, latents = system.sample(captions, "autoregressive", seed=3)
    one, _ = system.sample(captions[:1], "autoregressive", seed=3)
    np.testing.assert_array_equal(both[:1], one)
    np.testing.assert_array_equal(both, system.decode(latents))
    with pytest.raises(
        ValueError, match=r"sampler settings \['step'\] are unknown to the autoregressive prior"
    ):
        system.sample(captions, step=3)  # the last prior that was trained
    with pytest.raises(ValueError, match="no 'flow' in this system; it has"):
        system.sample(captions, "flow")


def test_weights_that_do_not_fit_are_listed(folder):
    tensors, _ = read_tensors(folder / "model.safetensors")
    missing = next(name for name in tensors if name.startswith("tokenizer/params/encoder"))
    tensors.pop(missing)
    tensors["tokenizer/params/extra"] = np.zeros(2, np.float32)
    tensors["tokenizer/params/decoder/mask"] = np.zeros((7,), np.float32)
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        from_pretrained(folder)
    message = str(error.value)
    assert f"missing {missing}" in message and "unexpected tokenizer/params/extra" in message
    assert "tokenizer/params/decoder/mask is float32[7], expected" in message


def test_weights_of_a_stage_that_is_not_of_the_system_are_unexpected(folder):
    tensors, _ = read_tensors(folder / "model.safetensors")
    tensors["upscaler/params/kernel"] = np.zeros(2, np.float32)
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(ValueError, match="unexpected upscaler/params/kernel"):
        from_pretrained(folder)


def test_what_is_no_run(tmp_path, small_run):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((small_run[0] / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="no checkpoint of a tokenizer"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"config\.json"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"config\.json"):
        load(tmp_path)
