"""What every kind of quantizer that a configuration can name has to do."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from jaxtok.config_files import from_json, to_json
from jaxtok.kinds import kinds_of, replace_kind
from jaxtok.quantize.binary import BinaryConfig
from jaxtok.quantize.config import QuantizerConfig
from jaxtok.quantize.fsq import FSQConfig
from jaxtok.quantize.gaussian import GaussianConfig
from jaxtok.quantize.residual import ResidualVQConfig
from jaxtok.quantize.simvq import SimVQConfig
from jaxtok.quantize.vq import VQConfig

KINDS = kinds_of(QuantizerConfig)
WIDTH = 12


def test_the_kinds():
    assert set(KINDS) >= {"binary", "bsq", "fsq", "gaussian", "ibq", "lfq", "rvq", "simvq", "vq"}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_keeps_the_contract(name):
    config = KINDS[name]()  # a flag can choose it: all fields have defaults
    module, space = config.build(WIDTH), config.space(WIDTH)

    def run(z):
        key = jax.random.key(0)
        variables = module.init(key, z)
        out = module.apply(variables, z, train=True, key=key, temperature=config.sampling_temperature)
        state = variables.get("quantizer")
        moved = state if state is None else module.update(state, out.statistics, key)
        codes = None if space is None else module.apply(variables, z, method="encode")
        values = None if codes is None else module.apply(variables, codes, method="decode")
        return out, codes, values, state, moved

    z = jax.ShapeDtypeStruct((2, 5, config.features(WIDTH)), jnp.float32)
    out, codes, values, state, moved = jax.eval_shape(run, z)
    assert out.values.shape == (2, 5, WIDTH) and out.values.dtype == jnp.float32
    assert jax.tree.structure(state) == jax.tree.structure(moved)
    if space is not None:
        assert config.code_space(WIDTH) == space == module.space
        assert codes.shape == out.codes.shape == (2, 5, space.slots) and codes.dtype == jnp.int32
        assert values.shape == out.values.shape


@pytest.mark.parametrize("name", KINDS)
def test_fields_are_those_of_the_module(name):
    """Under the module's names and with its values, but for sizes that a module has to be given."""
    config = KINDS[name]()
    module, own = config.build(WIDTH), {"k_means"}
    if isinstance(config, ResidualVQConfig):
        own |= {"codes", "code_width", "shared", "learning", "metric", "commitment", "decay", "revive_below"}
        own |= {"revival", "routing"}  # of its depths
    for field in dataclasses.fields(config):
        if field.name not in own:
            assert getattr(module, field.name) == getattr(config, field.name), field.name


@dataclasses.dataclass(frozen=True)
class Model:
    quantizer: QuantizerConfig = VQConfig(codes=64, commitment=0.5)
    more: QuantizerConfig | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    model: Model = Model()


def test_a_kind_is_chosen_inside_a_model_and_survives_its_file():
    config = replace_kind(Config(), "model.quantizer", "simvq")
    assert config.model.quantizer == SimVQConfig(codes=64)
    config = replace_kind(config, "model.more", "fsq")
    assert config.model.more == FSQConfig()
    for each in (Config(), config):
        assert from_json(Config, json.loads(json.dumps(to_json(each)))) == each
    with pytest.raises(ValueError, match="expected one of binary, bsq, fsq"):
        replace_kind(Config(), "model.quantizer", "vqq")


def test_what_training_needs():
    assert VQConfig(k_means=True).codebook_from_data and not VQConfig().codebook_from_data
    assert ResidualVQConfig(k_means=True).codebook_from_data
    assert BinaryConfig(temperature=0.3).sampling_temperature == 0.3
    assert VQConfig(sample_temperature=0.2).sampling_temperature == 0.2
    assert VQConfig().sampling_temperature is FSQConfig().sampling_temperature is None


def test_continuous_latents_have_no_alphabet():
    assert GaussianConfig().space(WIDTH) is None and GaussianConfig().features(WIDTH) == 2 * WIDTH
    with pytest.raises(ValueError, match="'gaussian' makes no codes that a prior could model"):
        GaussianConfig().code_space(WIDTH)
