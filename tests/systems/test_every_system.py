"""What every system must do; the systems are found by their files in `jaxtok/systems/`.

The test file of a system with official weights has a dict `OFFICIAL`: configurations of small official
models, by a word for each. Their state dicts are loaded and saved here.
"""

import copy
import dataclasses
import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import convert
from jaxtok.data.embedded import Digits
from jaxtok.param_trees import merge_collections
from jaxtok.run.trained import Trained
from jaxtok.systems.registry import system_class, system_modules
from jaxtok.train.stage import abstract_batch, collections_of, network_shapes
from jaxtok.weights import flatten
from tests.filled import draw_like

ROOT = Path(__file__).parents[2]


# The quantizers of another library are a converter alone: they have no sizes of their own.
SYSTEMS = {name: module for name, module in system_modules().items() if name != "vector_quantize_pytorch"}
OTHERS = ("tokenizer", "proxy", "teacher")


def each(names=SYSTEMS):
    """The systems as parameters, each of which belongs to its module."""
    return [pytest.param(name, marks=pytest.mark.belongs_to(SYSTEMS[name])) for name in names]


@functools.cache
def experiment(name):
    """The experiment of a system, None for a system that is only a part of others."""
    group = SYSTEMS[name].split(".")[2]
    exists = (ROOT / "experiments" / group / f"{name}.py").exists()
    return importlib.import_module(f"experiments.{group}.{name}") if exists else None


@functools.cache
def tiny(name):
    """The model of the smallest preset, and the shapes of all its components."""
    model = system_class(name).tiny()
    return model, model.shapes()


def batch_of(name, size=2):
    """Shapes of a batch of the smallest preset."""
    if experiment(name) is None:
        model = tiny(name)[0]
        data = Digits(image_sizes=(model.image_size,), channels=model.channels)
    else:
        data = next(iter(experiment(name).PRESETS.values())).data
    return abstract_batch(dataclasses.replace(data, batch_size=size))


def priors_of(name):
    """The components of the smallest preset that model codes."""
    model, shapes = tiny(name)
    return [part for part in shapes if part in model.priors]


def captions_of(model):
    """Whether its decoder reads captions."""
    return model.decoder_reads_captions


def with_method(method):
    """The systems that have it."""
    return [name for name in SYSTEMS if hasattr(system_class(name), method)]


def with_priors():
    """The systems whose experiment ends with a prior."""
    return [name for name in filter(experiment, SYSTEMS) if priors_of(name)]


# -- shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each(with_method("tokenizer")))
def test_the_parts_of_the_smallest_preset_fit_together(name):
    model, variables = tiny(name)
    batch, own = batch_of(name), variables["tokenizer"]

    def read_and_write(own, batch):
        latents = model.encode(own, batch)
        return latents, model.decode(own, latents, batch=batch, frozen={})["image"]

    latents, images = jax.eval_shape(read_and_write, own, batch)
    assert images.shape == batch["image"].shape and images.dtype == jnp.float32
    space = getattr(model, "space", None)
    if space is None:
        assert latents.codes is None and latents.values.shape[:2] == (2, model.tokens)
    else:
        assert latents.codes.shape == (2, model.tokens, space.slots) and latents.codes.dtype == jnp.int32
    system = Trained(model, variables)
    for prior in priors_of(name):
        network = model.prior_named(prior)
        assert network.tokens == model.tokens and network.space.size == space.size, prior
        sampler = system._sampler(prior, network.method.default_settings(), 2)
        frozen, asked = {"tokenizer": own}, model.request_batch(model.request_of(["3", "7"]))
        drawn = jax.eval_shape(
            sampler, variables[prior]["params"], frozen, asked, jax.random.key(0), None, None
        )
        assert drawn.codes.shape == (2, model.tokens, network.space.slots), prior

        def write(own, batch, drawn):
            return model.decode(own, drawn, batch=batch, frozen={})["image"]

        assert jax.eval_shape(write, own, batch, drawn).shape == batch["image"].shape, prior


# -- training --------------------------------------------------------------------------------------------


def stages_of(name):
    """(stage, shapes of its batch, of what it reads, of its state) of the smallest preset, in order."""
    config, variables = next(iter(experiment(name).PRESETS.values())), {}
    for stage in experiment(name).stages(config):
        frozen = {other: variables[other] for other in stage.frozen}
        frozen |= {other: network_shapes(load) for other, load in stage.networks.items()}
        data = dataclasses.replace(stage.data, batch_size=2)
        # From codes of files where that is possible: then no tokenizer is compiled.
        batch = abstract_batch(stage.codes.files_of(data) if stage.codes else data)
        state = jax.eval_shape(stage.update.init, jax.random.key(0), abstract_batch(data), frozen)
        variables[stage.name] = {"params": state["params"], **collections_of(state)}
        yield stage, batch, frozen, state


def drawn(shapes, seed):
    """Numbers for shapes: zeros and ones where they are integers, as codes and labels, else normal ones."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype)
        return jnp.asarray(rng.integers(0, 2, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize("name", each(filter(experiment, SYSTEMS)))
def test_a_step_of_every_stage_keeps_the_shapes_of_its_state(name):
    for stage, batch, frozen, state in stages_of(name):
        after, metrics = jax.eval_shape(stage.update, state, batch, frozen, jax.random.key(0))
        assert jax.tree.structure(after) == jax.tree.structure(state), stage.name
        for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after)):
            same = (old.shape, old.dtype) == (new.shape, new.dtype)
            assert same, f"{stage.name}: {jax.tree_util.keystr(path)} was {old}, is {new}"
        assert all(value.shape == () for value in metrics.values()), stage.name


@pytest.mark.exhaustive  # compiled; all stages train three steps in the slow tests of the experiments
@pytest.mark.parametrize("name", each(with_priors()))
def test_a_step_trains_every_part_of_a_prior(name):
    stage, batch, frozen, shapes = list(stages_of(name))[-1]
    state = {**drawn(shapes, 0), "params": draw_like(shapes["params"]), "step": jnp.int32(0)}
    state["optimizer"] = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes["optimizer"])
    after, metrics = jax.jit(stage.update)(state, drawn(batch, 1), drawn(frozen, 2), jax.random.key(3))
    assert after["step"] == 1 and all(np.isfinite(value) for value in metrics.values()), metrics
    before, after = flatten(state["params"]), flatten(after["params"])
    assert all(np.isfinite(leaf).all() for leaf in after.values())
    parts = {path.split("/")[0] for path in before}
    moved = {path.split("/")[0] for path in before if np.any(before[path] != after[path])}
    assert moved == parts


# -- official weights ------------------------------------------------------------------------------------


def official():
    """(system, word) for every configuration in the test files of the systems."""
    for name in with_method("official_components"):
        file = importlib.import_module(f"tests.systems.test_{name}")
        yield from ((name, word) for word in file.OFFICIAL)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


@pytest.mark.parametrize(
    "name, word",
    [pytest.param(name, word, marks=pytest.mark.belongs_to(SYSTEMS[name])) for name, word in official()],
)
def test_official_names_there_and_back(name, word, monkeypatch):
    config = importlib.import_module(f"tests.systems.test_{name}").OFFICIAL[word]
    components = system_class(name).official_components(config)
    assert all(component.signature in names_of(component) for component in components.values())
    # They are the same at every call, and tracing them takes longer than all the rest.
    monkeypatch.setattr(convert, "_components", lambda system, config: components)
    variables = {part: draw_like(c.shapes, seed) for seed, (part, c) in enumerate(components.items())}
    tensors = convert.export(name, variables, config)
    loaded = convert.load(name, tensors, config)
    for part, tree in variables.items():
        assert loaded[part].role == components[part].role and loaded[part].extras == {}
        assert_equal(flatten(merge_collections(loaded[part].variables)), flatten(merge_collections(tree)))
    assert_equal(convert.save(loaded), tensors)

    # Everything that does not fit is named at once.
    part, component = next(iter(components.items()))
    prefix = f"{part}." if len(components) > 1 else ""
    needed = sorted(names_of(component) - component.defaults.keys() - {component.signature})
    missing, wrong = needed[0], needed[-1]
    broken = {**tensors, f"{prefix}stray.weight": np.zeros(3, np.float32)}
    broken[f"{prefix}{wrong}"] = np.zeros((*tensors[f"{prefix}{wrong}"].shape, 2, 2), np.float32)
    del broken[f"{prefix}{missing}"]
    with pytest.raises(ValueError) as error:
        convert.load(name, broken, config)
    for fact in (
        "missing tensors (1)",
        missing,
        "unexpected tensors (1)",
        "stray.weight",
        "mis-shaped",
        wrong,
    ):
        assert fact in str(error.value), fact


def names_of(component):
    """Official names of a component's tensors."""
    return {name for entry in component.table.entries for name in entry.names}


@pytest.mark.parametrize(
    "name, word",
    [pytest.param(name, word, marks=pytest.mark.belongs_to(SYSTEMS[name])) for name, word in official()],
)
def test_keys_of_a_configuration_that_nothing_reads_are_refused_by_name(name, word):
    """At the top and in every mapping inside, also where their value is False."""
    config = importlib.import_module(f"tests.systems.test_{name}").OFFICIAL[word]
    beside = ("sizes", "losses")  # not about this network
    places = [(), *((key,) for key, value in config.items() if isinstance(value, dict) and key not in beside)]
    for place in places:
        changed = copy.deepcopy(config)
        inner = changed
        for key in place:
            inner = inner[key]
        inner["qk_nrm"] = False
        with pytest.raises(ValueError, match=rf"{'.'.join([*place, 'qk_nrm'])}|qk_nrm.* has no counterpart"):
            convert.load(name, {"nothing.of.the.kind": np.zeros((2, 2))}, changed)


@pytest.mark.parametrize("name", each(with_method("official_components")))
def test_a_file_of_something_else_is_refused(name):
    config = next(iter(importlib.import_module(f"tests.systems.test_{name}").OFFICIAL.values()))
    with pytest.raises(ValueError, match=r"no component of|missing tensors \("):
        convert.load(name, {"nothing.of.the.kind": np.zeros((2, 2))}, config)


# -- verbs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", each(with_method("tokenizer")))
def test_what_a_verb_cannot_do_is_refused_by_name(name):
    model, variables = tiny(name)
    image = np.zeros(batch_of(name)["image"].shape, np.uint8)
    priors, nothing = priors_of(name), Trained(model, {})
    system = Trained(model, {"tokenizer": {}, **{prior: {"params": {}} for prior in priors}})
    with pytest.raises(ValueError, match=r"no 'tokenizer' in this system; it has \[\]"):
        nothing.reconstruct(image)
    with pytest.raises(ValueError, match=r"expected uint8, or floats in \[-1, 1\]"):
        system.encode(image.astype(np.int64))
    with pytest.raises(ValueError, match="resize"):
        jax.eval_shape(model.encode, variables["tokenizer"], {"image": image[:, 1:, 1:]})
    with pytest.raises(ValueError, match=r"prior 'gan'"):
        model.prior_named("gan")
    for prior in priors:
        with pytest.raises(ValueError, match=rf"no '{prior}' in this system; it has \[\]"):
            nothing.sample(["3"], prior)
        with pytest.raises(ValueError, match=rf"\['nonsense'\] are unknown to the {prior} prior; it has \["):
            system.sample(["3"], prior, nonsense=1)
        if model.conditioned_on == "labels":
            with pytest.raises(ValueError, match=r"\['ten'\] are none; give numbers from 0 to 9"):
                system.sample(["3", "ten"], prior)
    # Whoever reads captions says how batches get them.
    readers = ["decoder_condition"] if captions_of(model) else []
    readers += ["condition"] if priors and model.conditioned_on == "captions" else []
    for reader in readers:
        with pytest.raises(ValueError, match=r"the batches have none; set --data\.text-length"):
            getattr(model, reader)({"image": jnp.asarray(image)}, {})
