"""A quantizer of one file outside the library is chosen by a flag, in every system that has a quantizer."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import cli
from jaxtok.cli import _parse, _with_kinds
from jaxtok.codes import CodeSpace
from jaxtok.config_files import from_json, to_json
from jaxtok.run.claims import with_steps
from jaxtok.run.pretrained import load
from jaxtok.systems.image.maskgit_vqgan import MaskGITVQGAN
from jaxtok.train.run import Run
from tests.experiments.test_experiments import with_few_samples
from tests.strangers.toy_quantizer import Toy

TOY = "tests.strangers.toy_quantizer:Toy"
# Experiment, and where its system has a quantizer.
PLACES = {
    "image.titok": "model.quantizer",
    "image.llamagen": "model.quantizer",
    "image.instella_t2i": "model.quantizer",
    "image.maskgit": "model.codec.quantizer",
    "image.rar": "model.codec.quantizer",
    "analysis.collapse": "model.quantizer",
}


def experiment(name):
    return importlib.import_module(f"experiments.{name}")


def chosen(name, *flags):
    """The default configuration of an experiment with these flags."""
    config, rest = _with_kinds(next(iter(experiment(name).PRESETS.values())), list(flags))
    return _parse("train", "", rest, Run(workdir="x"), config)[1]


@dataclasses.dataclass(frozen=True)
class TokenizerAlone:
    model: MaskGITVQGAN = MaskGITVQGAN.tiny()


def test_the_tokenizer_of_maskgit_takes_it():
    config, rest = _with_kinds(
        TokenizerAlone(), [f"--model.quantizer:{TOY}", "--model.quantizer.levels", "5"]
    )
    model = _parse("train", "", rest, Run(workdir="x"), config)[1].model
    assert model.quantizer == Toy(levels=5) and model.space == CodeSpace((5, 5, 5))
    assert set(model.shapes()["tokenizer"]["params"]["quantizer"]) == {"inward", "outward"}


@pytest.mark.parametrize("name", PLACES)
def test_a_flag_chooses_it(name):
    place = PLACES[name]
    config = chosen(name, f"--{place}:{TOY}", f"--{place}.channels", "3")
    stored = json.loads(json.dumps(to_json(config)))
    assert from_json(type(config), stored) == config
    model = config.model
    if name == "analysis.collapse":
        assert model.arms[-5:] == ("own", *model.residual) and model.arm("own").space == CodeSpace((64,))
        assert "own" in {stage.name for stage in experiment(name).stages(config)}
        model = model.arm("own")
        tokenizer, levels = model.tokenizer(), (64,)
    else:
        shapes = model.shapes()
        assert set(shapes["tokenizer"]["params"]["quantizer"]) == {"inward", "outward"}
        assert {stage.name for stage in experiment(name).stages(config)} >= set(shapes)
        tokenizer, levels = model.tokenizer(), (4, 4, 4)
    assert model.space.levels == levels

    def run(images):
        variables = tokenizer.init(jax.random.key(0), images)
        latents = model.encode_images(variables, images)
        return latents, model.decode_images(variables, latents.codes)

    side = config.data.image_sizes[0]
    images = jnp.zeros((2, side, side, config.data.channels))
    latents, decoded = jax.eval_shape(run, images)
    assert latents.codes.shape == (2, latents.codes.shape[1], len(levels)) and decoded.shape == images.shape


@pytest.mark.parametrize("name", ["image.llamagen", "image.instella_t2i", "image.maskgit"])
def test_systems_of_codes_refuse_continuous_latents(name):
    with pytest.raises(ValueError, match="'gaussian' makes no codes that a prior could model"):
        chosen(name, f"--{PLACES[name]}:gaussian")


def test_a_generator_of_one_index_per_token_names_its_limits():
    for flags, message in (
        (["--model.codec.quantizer:fsq"], "models tokens of 64 codes, the tokenizer makes them of 1000"),
        (["--model.codec.quantizer:rvq"], "at most 65536 values, and tokens of levels"),
    ):
        with pytest.raises(ValueError, match=message):
            chosen("image.rar", *flags).model.shapes()


def test_its_codes_are_those_of_its_values():
    module, z = Toy().build(8), jax.random.normal(jax.random.key(0), (2, 5, 8))
    variables = module.init(jax.random.key(1), z)
    out = module.apply(variables, z, train=True)
    np.testing.assert_array_equal(module.apply(variables, z, method="encode"), out.codes)
    np.testing.assert_allclose(module.apply(variables, out.codes, method="decode"), out.values, atol=1e-6)
    assert out.codes.min() >= 0 and out.codes.max() < 4 and float(out.statistics["counts"].sum()) == 30


def trained(name, workdir, *flags):
    """Two steps of every stage through the command line."""
    module = experiment(name)
    presets = {"tiny": with_steps(next(iter(module.PRESETS.values())), 2)}
    argv = [*flags, "--data.batch-size", "8", "--workdir", str(workdir)]
    stages = lambda config: map(with_few_samples, module.stages(config))
    cli.main(name.split(".")[1], presets, stages, (), module.__doc__, argv)
    return json.loads((workdir / "summary.json").read_text())


FSQ = ("fsq", "--{place}.levels", "4", "4", "4")
TRAINED = {
    "image.titok": FSQ,
    "image.llamagen": FSQ,
    "image.maskgit": FSQ,
    "image.rar": FSQ,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.belongs_to(f"experiments.{name}", "jaxtok.quantize.config"))
        for name in TRAINED
    ],
)
def test_tokenizers_and_priors_train_on_scalar_codes(name, tmp_path):
    kind, *rest = (word.format(place=PLACES[name]) for word in TRAINED[name])
    summary = trained(name, tmp_path / "run", f"--{PLACES[name]}:{kind}", *rest)
    system = load(tmp_path / "run")
    assert {"tokenizer", *system.system.priors} <= set(summary)
    assert summary["tokenizer"]["steps"] == summary[system.system.priors[-1]]["steps"] == 2
    images, _ = system.sample(["3", "7"], system.system.priors[-1])
    assert images.shape == (2, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.belongs_to("experiments.image.titok", "jaxtok.quantize.config")
def test_it_trains_and_loads(tmp_path):
    trained("image.titok", tmp_path / "run", f"--model.quantizer:{TOY}")
    system = load(tmp_path / "run")
    assert system.system.quantizer == Toy()
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert system.encode(images).codes.shape == (2, 8, 3) and system.reconstruct(images).shape == images.shape
