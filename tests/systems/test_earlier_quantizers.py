"""Settings of quantizers that were fields of systems until December 2026 are read, and their flags named."""

import pytest

from experiments.analysis import collapse
from experiments.image import llamagen, titok
from jaxtok import cli
from jaxtok.aliases import current_fields, current_flags
from jaxtok.config_files import from_json, to_json
from jaxtok.quantize.binary import BinaryConfig
from jaxtok.quantize.gaussian import GaussianConfig
from jaxtok.quantize.vq import VQConfig
from jaxtok.systems.image.instella_t2i import InstellaT2I
from jaxtok.systems.image.llamagen import LlamaGen
from jaxtok.systems.image.maskgit_vqgan import MaskGITVQGAN
from jaxtok.systems.image.rar import RAR
from jaxtok.systems.image.tatitok import TATiTok
from jaxtok.systems.image.titok import TiTok

AVERAGED = {"learning": "ema", "decay": 0.95, "revive_below": 0.1}


@pytest.mark.parametrize(
    "system, old, quantizer",
    [
        (TiTok, {"codebook": 64, "learning": "cvq"}, VQConfig(codes=64, metric="cosine", learning="cvq")),
        (
            TATiTok,
            {"bottleneck": "vq", "codebook": 8, "metric": "euclidean", "commitment": 1.0, "kl_weight": 0.5},
            VQConfig(codes=8, commitment=1.0),
        ),
        (
            TiTok,
            {"bottleneck": "vae", "head": "pixels", "codebook": 8, "kl_weight": 0.5},
            GaussianConfig(kl_weight=0.5),
        ),
        (
            LlamaGen,
            {"codes": 32, "unit_codes": False, "entropy_weight": 0.1},
            VQConfig(codes=32, code_width=8, entropy_weight=0.1),
        ),
        (LlamaGen, {"told": "nothing"}, VQConfig(codes=16384, code_width=8, metric="cosine")),
        (
            MaskGITVQGAN,
            {"codes": 7, "codebook_weight": 0.5},
            VQConfig(codes=7, commitment=1.0, codebook_weight=0.5),
        ),
        (InstellaT2I, {"bits": 5, "temperature": 1.0, "codebook": 9}, BinaryConfig(bits=5, temperature=1.0)),
        (InstellaT2I, {"quantizer": "binary"}, BinaryConfig(bits=64)),
        (
            InstellaT2I,
            {"quantizer": "vq", "codebook": 9, "codebook_width": 4, "bits": 5},
            VQConfig(codes=9, code_width=4, **AVERAGED),
        ),
    ],
)
def test_old_fields_are_read(system, old, quantizer):
    model = from_json(system, old)
    assert model.quantizer == quantizer
    assert from_json(system, to_json(model)) == model


def test_a_tokenizer_inside_a_system_is_read_too():
    model = from_json(RAR, {"codec": {"codes": 1024, "image_size": 256}})
    assert model == RAR()


def test_old_and_new_together_are_refused():
    new = to_json(TiTok.tiny())
    with pytest.raises(
        ValueError, match="TiTok has a quantizer and codebook, which are settings of an older"
    ):
        current_fields("TiTok", {**new, "codebook": 64})
    assert current_fields("TiTok", new) == new


def test_a_flag_that_moved_is_named(capsys):
    tiny = titok.TINY
    assert current_flags(tiny, "--model.codebook") == ["--model.quantizer.codes"]
    assert current_flags(tiny, "--model.tokens") == current_flags(tiny, "--nothing.of.it") == []
    for experiment, name, flag, today in (
        (titok, "titok", "--model.codebook", "--model.quantizer.codes"),
        (llamagen, "llamagen", "--model.code-width", "--model.quantizer.code-width"),
        (llamagen, "llamagen", "--model.told", "--model.conditioning"),
        (titok, "titok", "--judge", "--scorer"),
    ):
        with pytest.raises(SystemExit):
            cli.main(name, experiment.PRESETS, experiment.stages, (), "", [flag, "64"])
        assert f"did you mean {today}?" in capsys.readouterr().err


def test_the_comparison_of_quantizers_reads_files_without_an_own_arm():
    config = collapse.PRESETS["tiny"]
    stored = to_json(config)
    del stored["model"]["quantizer"]
    assert from_json(type(config), stored) == config
