"""A folder of `save_pretrained` that is not what was saved does not load."""

import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.run import from_pretrained, save_pretrained
from jaxtok.run.trained import Trained
from jaxtok.tensor_files import read_tensors, write_tensors
from tests.small_system import SMALL, random_like

FILE = "model.safetensors"
shapes_of = functools.cache(type(SMALL).shapes)


@pytest.fixture(scope="module")
def system():
    shapes = SMALL.shapes()
    variables = {name: random_like(shapes[name]) for name in ("tokenizer", "diffusion")}
    return Trained(SMALL, variables, {"experiment": "instella_t2i"})


@pytest.fixture(scope="module")
def saved(system, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save_pretrained(system, folder)
    return folder


@pytest.fixture(autouse=True)
def _shapes_traced_once(monkeypatch):
    monkeypatch.setattr(type(SMALL), "shapes", lambda model: shapes_of(model))


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "folder")


def test_what_was_saved_loads(folder, caplog):
    assert set(from_pretrained(folder).variables) == {"tokenizer", "diffusion"}
    assert not caplog.text


@pytest.mark.parametrize("place", np.linspace(0.02, 0.999, 15))
def test_every_flipped_bit_is_noticed(folder, place):
    data = bytearray((folder / FILE).read_bytes())
    data[int(place * len(data))] ^= 1 << 3
    (folder / FILE).write_bytes(data)
    with pytest.raises(ValueError, match=str(folder)):
        from_pretrained(folder)


def rewritten(folder, change):
    """The folder with its tensors changed and its metadata kept."""
    tensors, metadata = read_tensors(folder / FILE)
    change(tensors)
    write_tensors(folder / FILE, tensors, metadata)


def test_another_type_of_the_same_bytes_is_refused(folder):
    name = next(iter(read_tensors(folder / FILE)[0]))
    rewritten(folder, lambda tensors: tensors.update({name: tensors[name].view(np.int32)}))
    with pytest.raises(ValueError, match=rf"{name} is int32.*expected float32"):
        from_pretrained(folder)


def test_a_missing_component_is_refused(folder):
    for gone in ("tokenizer", "diffusion"):
        copy = shutil.copytree(folder, folder.with_name(gone))
        write = lambda tensors, gone=gone: [
            tensors.pop(name) for name in list(tensors) if name.startswith(gone)
        ]
        rewritten(copy, write)
        with pytest.raises(ValueError, match=f"missing {gone}/"):
            from_pretrained(copy)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(system, folder, tmp_path):
    tensors, _ = read_tensors(folder / FILE)
    name = next(iter(tensors))
    tensors[name] = np.full_like(tensors[name], np.nan)
    write_tensors(folder / FILE, tensors)
    with pytest.raises(ValueError, match=rf"not finite:\s+{name}"):
        from_pretrained(folder)
    part, *rest = name.split("/")
    broken = {**system.variables, part: random_like(SMALL.shapes()[part])}
    leaf = broken[part]
    for key in rest[:-1]:
        leaf = leaf[key]
    leaf[rest[-1]] = jnp.full_like(leaf[rest[-1]], jnp.inf)
    with pytest.raises(ValueError, match="not finite"):
        save_pretrained(Trained(SMALL, broken, system.record), tmp_path / "broken")


def test_folders_without_hashes_still_load_and_say_so(folder, caplog):
    tensors, _ = read_tensors(folder / FILE)
    write_tensors(folder / FILE, tensors, {"format": "jaxtok"})
    content = json.loads((folder / "config.json").read_text())
    del content["components"]
    (folder / "config.json").write_text(json.dumps(content))
    assert set(from_pretrained(folder).variables) == {"tokenizer", "diffusion"}
    assert "without hashes" in caplog.text


def test_float_images_say_their_range(system):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    expected = np.asarray(system.encode(images).codes)
    for floats, value_range in ((images / 255, (0, 1)), (images / 127.5 - 1, None), (images / 1.0, (0, 255))):
        found = system.encode(floats.astype(np.float32), value_range=value_range)
        np.testing.assert_array_equal(found.codes, expected)
    for wrong, message in (
        (images / 255, r"value_range=\(0, 1\)"),
        (images / 1.0, "without a negative one"),
        (np.full_like(images / 255, np.nan), "not finite"),
        (images[0], r"takes \[B, H, W, 1\]"),
        (np.repeat(images, 3, axis=-1), r"takes \[B, H, W, 1\]"),
        (images.astype(np.int32), "int32"),
    ):
        with pytest.raises(ValueError, match=message):
            system.encode(wrong)
