"""What every experiment must do: these tests find the files in `experiments/` themselves."""

import dataclasses
import importlib
import json
import math
from pathlib import Path

import jax
import pytest

from jaxtok.config_files import from_json, to_json
from jaxtok.run.claims import identity_of, measured_arms
from jaxtok.train.sharding import MeshShape, make_mesh, shardings
from jaxtok.train.stage import Stage, abstract_batch, collections_of, network_shapes

ROOT = Path(__file__).parents[2]
# Benchmarks are scripts of their own: they have no presets.
FILES = sorted(path for path in (ROOT / "experiments").rglob("*.py") if "\nPRESETS = " in path.read_text())
EXPERIMENTS = {path.stem: path for path in FILES}


# How many parameters every stage of every preset trains; `python -m tests.experiments.test_experiments`
# counts them. The tests count default presets always, the others where a change reaches their sources.
COUNTS = Path(__file__).with_name("parameter_counts.json")


def module_name(name):
    return ".".join(EXPERIMENTS[name].relative_to(ROOT).with_suffix("").parts)


def module_of(name):
    return importlib.import_module(module_name(name))


def of_experiments(names):
    """The experiments as slow parameters, each of which belongs to its module."""
    return [
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.belongs_to(module_name(name))])
        for name in names
    ]


def default(name):
    return next(iter(module_of(name).PRESETS.values()))


PRESETS = [(name, preset) for name in EXPERIMENTS for preset in module_of(name).PRESETS]


def built_preset(name, preset):
    """A preset as a parameter: slow, and of its experiment, unless it is the default."""
    slow = [] if preset == next(iter(module_of(name).PRESETS)) else of_experiments([name])[0].marks
    return pytest.param(name, preset, marks=slow)


def state_shapes(config, module):
    """(stage, shapes of its state) in order, from shapes of the earlier stages alone."""
    variables = {}
    for stage in module.stages(config):
        frozen = {name: variables[name] for name in stage.frozen}
        frozen |= {name: network_shapes(load) for name, load in stage.networks.items()}
        shapes = jax.eval_shape(stage.update.init, jax.random.key(0), abstract_batch(stage.data), frozen)
        variables[stage.name] = {"params": shapes["params"], **collections_of(shapes)}
        yield stage, shapes


def elements(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_there_are_experiments():
    assert {"instella_t2i", "collapse"} <= set(EXPERIMENTS)


def counts_of(seen):
    return {stage: elements(params) for stage, params in seen.items()}


def test_parameters_of_every_preset_are_counted():
    counted = [
        (name, preset) for name, presets in json.loads(COUNTS.read_text()).items() for preset in presets
    ]
    assert counted == PRESETS, "run: python -m tests.experiments.test_experiments"


@pytest.mark.parametrize("name, preset", [built_preset(*pair) for pair in PRESETS])
def test_every_stage_of_every_preset_builds(name, preset):
    module = module_of(name)
    config = module.PRESETS[preset]
    mesh, seen = make_mesh(MeshShape(2, 2, 2)), {}
    for stage, shapes in state_shapes(config, module):
        assert isinstance(stage, Stage) and stage.name not in seen and set(stage.frozen) <= set(seen)
        assert shapes["step"].shape == () and elements(shapes["params"]) > 0
        shardings(shapes, stage.rules, mesh)  # every rule must decide about something
        seen[stage.name] = shapes["params"]
    for component, variables in config.model.shapes().items():
        assert jax.tree.map(lambda x: x.shape, seen[component]) == jax.tree.map(
            lambda x: x.shape, variables["params"]
        )
    told = f"{COUNTS.name} says something else; run: python -m tests.experiments.test_experiments"
    assert counts_of(seen) == json.loads(COUNTS.read_text())[name][preset], told


ADVERSARIAL = [name for name in EXPERIMENTS if hasattr(default(name), "discriminator")]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_networks_that_compare_and_judge_images_are_there_where_they_have_weight(name):
    module, tiny = module_of(name), default(name)
    plain, scored = (
        dataclasses.replace(
            tiny,
            discriminator=dataclasses.replace(tiny.discriminator, weight=weight),
            weights=dataclasses.replace(tiny.weights, perceptual_weight=weight),
        )
        for weight in (0.0, 0.1)
    )
    for config, present in ((plain, False), (scored, True)):
        stages = state_shapes(config, module)  # those after the tokenizer are not asked for
        stage, shapes = next((stage, shapes) for stage, shapes in stages if stage.name == "tokenizer")
        assert ("discriminator" in shapes) == ("perceptual" in stage.networks) == present


@pytest.mark.parametrize("name, preset", PRESETS)
def test_every_preset_survives_its_file(name, preset):
    config = module_of(name).PRESETS[preset]
    assert from_json(type(config), json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_compares_arms_that_can_be_built(name):
    module = module_of(name)
    config = default(name)
    assert len({claim.name for claim in module.CLAIMS}) == len(module.CLAIMS)
    for claim in module.CLAIMS:
        labels = [arm.label for arm in claim.arms]
        assert len(set(labels)) == len(labels), claim.name
        measured = measured_arms(claim)
        sides = {(identity_of(arm.configure(config)), arm.metric) for arm in measured}
        assert len(sides) == len(measured), f"{claim.name}: two arms measure the same"
        for arm in measured:
            assert arm.stage in [stage.name for stage in module.stages(arm.configure(config))], claim.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_committed_claims_are_those_of_the_file(name):
    path = EXPERIMENTS[name].with_suffix(".claims.json")
    if not path.exists():
        pytest.skip("no claims.json is committed")
    outcome = json.loads(path.read_text())
    module = module_of(name)
    assert outcome["experiment"] == name and "steps" not in outcome and len(outcome["seeds"]) >= 3
    assert [claim["name"] for claim in outcome["claims"]] == [claim.name for claim in module.CLAIMS]
    for scored, claim in zip(outcome["claims"], module.CLAIMS, strict=True):
        assert [arm["label"] for arm in scored["arms"]] == [arm.label for arm in claim.arms]
        assert [arm["metric"] for arm in scored["arms"]] == [arm.metric for arm in claim.arms]
        assert all(len(arm["values"]) == len(outcome["seeds"]) for arm in scored["arms"])
        assert scored["relation"] == claim.relation


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_how_to_run_it(name):
    module = module_of(name)
    command = f"python {EXPERIMENTS[name].relative_to(ROOT)}"
    assert "arXiv" in module.__doc__ and command in module.__doc__
    for line in module.__doc__.splitlines():
        if "--preset" in line:
            assert line.split("--preset")[1].split()[0] in module.PRESETS, line


def test_the_smallest_run_trains_three_steps(small_run):
    summary = json.loads((small_run[0] / "summary.json").read_text())
    assert all(row["steps"] == 3 for row in summary.values())


def with_few_samples(stage):
    """Two samples of a caption, and not fifty."""
    if not hasattr(stage.evaluator, "per_caption"):
        return stage
    return dataclasses.replace(stage, evaluator=dataclasses.replace(stage.evaluator, per_caption=2))


# All claims of Instella-T2I are tried by the tests of the command line, with its smallest model; every arm of
# "collapse" takes three steps in the tests of that system.
@pytest.mark.parametrize("name", of_experiments(sorted({*EXPERIMENTS} - {"instella_t2i", "collapse"})))
def test_the_default_preset_trains_three_steps(name, tmp_path):
    from jaxtok.run.claims import with_steps
    from jaxtok.run.experiment import Experiment, train
    from jaxtok.train.run import Run

    module = module_of(name)
    config = with_steps(default(name), 3)
    stages = lambda config: map(with_few_samples, module.stages(config))
    experiment = Experiment(name, module.__doc__, module.PRESETS, stages, module.CLAIMS)
    results = train(experiment, config, Run(str(tmp_path)))
    metrics = {f"{stage}/{result.name}" for stage, rows in results.items() for result in rows}
    # Claims compare metrics that exist.
    for claim in module.CLAIMS:
        for arm in measured_arms(claim):
            assert arm.changes or arm.metric in metrics, arm.metric


def main():
    """Writes `parameter_counts.json`."""
    counts = {}
    for name, preset in PRESETS:
        module = module_of(name)
        seen = {
            stage.name: shapes["params"] for stage, shapes in state_shapes(module.PRESETS[preset], module)
        }
        counts.setdefault(name, {})[preset] = counts_of(seen)
    COUNTS.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
