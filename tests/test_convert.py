import functools
import json

import numpy as np
import pytest

from jaxtok.convert import export, load, official_systems, save
from jaxtok.systems.image.instella_t2i import InstellaT2I, official_components
from jaxtok.systems.quantizers.vector_quantize_pytorch import VectorQuantizePytorch
from jaxtok.systems.registry import system_class, system_modules
from jaxtok.weights import flatten, read_tensors, save_table, write_tensors
from tests.filled import draw_like
from tests.systems.test_instella_t2i import small_official


def checkpoint(config):
    """A random official state dict of that configuration, with every component behind its prefix."""
    state = {}
    for name, component in official_components(config).items():
        tensors = save_table(component.table, draw_like(component.shapes["params"]), {})
        state |= {f"{name}.{key}": np.ascontiguousarray(value) for key, value in tensors.items()}
    # Tensors that the official modules own and our model does not use.
    extras = {"ar.time_embed.linear_1.weight": (8, 1), "bae.decoder.repa_proj.0.weight": (8, 8)}
    return state | {key: np.full(shape, 2.0, np.float32) for key, shape in extras.items()}


@pytest.fixture(scope="module", autouse=True)
def _traced_once():
    """Components are the same at every call, and tracing them takes longer than all the rest."""
    trace = functools.cache(lambda config: official_components(json.loads(config)))
    traced = staticmethod(lambda config: trace(json.dumps(config, default=dict)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstellaT2I, "official_components", traced)
        yield


@pytest.fixture(scope="module")
def official():
    return small_official(), checkpoint(small_official())


@pytest.fixture(scope="module")
def loaded(official):
    return load("instella_t2i", official[1], official[0])


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_components_are_named_and_extras_ride_along(loaded):
    assert {name: part.role for name, part in loaded.items()} == {
        "bae": "tokenizer",
        "diff": "diffusion",
        "ar": "autoregressive",
    }
    assert list(loaded["ar"].extras) == ["time_embed.linear_1.weight"] and loaded["diff"].extras == {}
    assert list(loaded["bae"].extras) == ["decoder.repa_proj.0.weight"]
    assert all(leaf.dtype == np.float32 for leaf in flatten(loaded["bae"].variables["params"]).values())


def test_saving_what_was_loaded_preserves_every_tensor(official, loaded):
    equal(save(loaded), official[1])


@pytest.mark.parametrize("name", ["bae", "diff", "ar"])
def test_one_component_without_prefix_is_recognised(official, name):
    arguments, tensors = official
    own = {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
    part = load("instella_t2i", own, arguments)
    assert list(part) == [name]
    equal(save(part), own)


def test_a_file_brings_its_configuration(official, tmp_path):
    arguments, tensors = official
    path = tmp_path / "model.safetensors"
    write_tensors(path, tensors, {"config": json.dumps(arguments)})
    equal(save(load("instella_t2i", path)), tensors)


def test_everything_that_does_not_fit_is_listed_at_once(official):
    arguments, tensors = official
    broken = {key: value for key, value in tensors.items() if key.startswith("bae.")}
    del broken["bae.encoder.proj_out.bias"]
    broken["bae.encoder.blocks.0.weight"] = np.zeros(3, np.float32)
    broken["bae.quantizer.embed"] = np.zeros((6, 16), np.float32)
    with pytest.raises(ValueError) as error:
        load("instella_t2i", broken, arguments)
    message = str(error.value)
    for part in (
        "missing tensors (1)",
        "encoder.proj_out.bias",
        "unexpected tensors (1)",
        "encoder.blocks.0.weight",
    ):
        assert part in message
    assert "mis-shaped tensors (1)" in message and "quantizer.embed (6, 16)" in message


def test_tensors_of_no_component_are_an_error(official):
    arguments, tensors = official
    tensors = {key: value for key, value in tensors.items() if key.startswith("bae.")}
    with pytest.raises(ValueError, match=r"1 tensors belong to no component of instella_t2i: step"):
        load("instella_t2i", {**tensors, "step": np.zeros(3), "io.image": np.zeros(3)}, arguments)
    equal(save(load("instella_t2i", {**tensors, "io.image": np.zeros(3)}, arguments)), tensors)


def test_what_is_no_checkpoint_of_the_system_is_refused(official):
    with pytest.raises(
        ValueError, match=r"no component of instella_t2i among 1 tensors such as \['head.weight'\]"
    ):
        load("instella_t2i", {"head.weight": np.zeros((2, 2))}, official[0])
    with pytest.raises(ValueError, match="no converter for 'dalle'"):
        load("dalle", {}, {})


@pytest.mark.slow  # with the parity tests
@pytest.mark.parametrize("name", ["instella_t2i", "instella_t2i_scaled"])
def test_official_files_survive_the_round_trip(shared, name):
    path = shared(f"goldens/{name}.safetensors")
    tensors = {key: value for key, value in read_tensors(path)[0].items() if not key.startswith("io.")}
    equal(save(load("instella_t2i", tensors, read_tensors(path)[1]["config"])), tensors)


def test_what_was_trained_here_gets_official_names():
    one = {"class": "VectorQuantize", "args": {"dim": 2, "codebook_size": 3}}
    config = {"coarse": one, "fine": {"class": "SimVQ", "args": {"dim": 4, "codebook_size": 5}}}
    parts = VectorQuantizePytorch.official_components(config)
    variables = {name: draw_like(part.shapes) for name, part in parts.items()}
    state = export("vector_quantize_pytorch", variables, config)
    assert {name.split(".")[1] for name in state} == {"coarse", "fine"}
    back = load("vector_quantize_pytorch", state, config)
    for name, tree in variables.items():
        equal(flatten(back[name].variables), flatten(tree))
    # One component needs no prefix.
    alone = export("vector_quantize_pytorch", {"model": variables["model.coarse"]}, one)
    prefix = "model.coarse."
    equal(alone, {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)})
    with pytest.raises(ValueError, match=r"has no components \['vae'\]; it has \['model'\]"):
        export("vector_quantize_pytorch", {"vae": {}}, one)
    with pytest.raises(ValueError, match="no converter for 'dalle'"):
        export("dalle", {}, config)
    other = {"class": "VectorQuantize", "args": {"dim": 2, "codebook_size": 4}}
    with pytest.raises(ValueError, match="mis-shaped tensors"):
        export("vector_quantize_pytorch", {"model": variables["model.coarse"]}, other)


def test_tensors_are_saved_in_the_dtype_that_they_had():
    import ml_dtypes

    config = {"class": "VectorQuantize", "args": {"dim": 4, "codebook_size": 5, "codebook_dim": 3}}
    component = next(iter(VectorQuantizePytorch.official_components(config).values()))
    tensors = export("vector_quantize_pytorch", {"model": draw_like(component.shapes, 0)}, config) | {
        "_codebook.initted": np.ones(1, bool)
    }
    kinds = (ml_dtypes.bfloat16, np.float16, np.float32)
    mixed = {
        name: tensor.astype(kinds[i % 3]) if tensor.dtype == np.float32 else tensor
        for i, (name, tensor) in enumerate(sorted(tensors.items()))
    }
    saved = save(load("vector_quantize_pytorch", mixed, config))
    assert saved.keys() == mixed.keys() and {tensor.dtype for tensor in mixed.values()} >= set(
        map(np.dtype, kinds)
    )
    for name, tensor in mixed.items():
        assert saved[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(saved[name], tensor, err_msg=name)


@pytest.mark.parametrize("value", [0, -1, "x", None, [], {}, 1.5])
def test_values_that_make_no_network_are_one_plain_error(official, value):
    config, tensors = official
    for section, name in (("bae", "encoder_num_heads"), ("bae", "patch_size"), ("prior", "heads")):
        changed = {**config, section: {**config[section], name: value}}
        with pytest.raises(ValueError, match=r".{10}"):
            load("instella_t2i", tensors, changed)
    with pytest.raises(ValueError, match="the official configuration"):
        load("instella_t2i", tensors, "[1]")


def test_systems_are_found_by_their_files():
    assert {"titok", "maskgen", "vector_quantize_pytorch"} <= set(official_systems())
    assert "maskgit" in system_modules() and "maskgit" not in official_systems()
    with pytest.raises(ValueError, match=r"no converter for 'maskgit'; there are converters for \['flextok'"):
        load("maskgit", {})
    with pytest.raises(ValueError, match="no system 'titok_table'"):
        system_class("titok_table")
