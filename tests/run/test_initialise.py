import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.data.embedded import Digits
from jaxtok.param_trees import flatten
from jaxtok.quantize.binary import BinaryConfig
from jaxtok.run.initialise import initialiser
from jaxtok.run.pretrained import load, save_pretrained
from jaxtok.systems.image.instella_t2i import from_official
from jaxtok.tensor_files import write_tensors
from jaxtok.train.loop import fit
from jaxtok.train.run import Run
from jaxtok.train.stage import Stage
from tests.small_system import FIT, SMALL, assert_trees_close, tokenizer_update
from tests.systems.test_instella_t2i import small_official
from tests.test_convert import checkpoint

DATA = Digits(image_sizes=(8,), channels=1, batch_size=8)


@pytest.fixture(scope="module")
def system(small_run):
    return load(small_run[0])


def fresh(model=SMALL, **collections):
    """A state of zeros."""
    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), model.shapes()["tokenizer"]["params"])
    return {"step": jnp.int32(0), "params": params, "optimizer": {}, "ema": params, **collections}


@pytest.mark.parametrize("kind", ["run", "pretrained"])
def test_own_weights(small_run, system, tmp_path, capsys, kind):
    source = small_run[0]
    if kind == "pretrained":
        source = tmp_path / "folder"
        save_pretrained(system, source)
    state = initialiser(str(source), "instella_t2i", "tokenizer")(fresh())
    expected = system.variables["tokenizer"]["params"]
    assert_trees_close(state["params"], expected, 0)
    assert_trees_close(state["ema"], expected, 0)
    assert state["step"] == 0 and state["optimizer"] == {}
    count = len(flatten(expected))
    output = capsys.readouterr().out
    assert f"tokenizer from {source}:" in output and f"loaded ({count})" in output
    assert "skipped (0)" in output and "missing (0)" in output and "unused (0)" in output


def test_what_does_not_fit_stays_fresh_and_is_listed(small_run, system, capsys):
    wider = dataclasses.replace(SMALL, quantizer=BinaryConfig(bits=6, temperature=1.0))
    state = initialiser(str(small_run[0]), "instella_t2i", "tokenizer")(fresh(wider))
    assert not flatten(state["params"])["quantizer/embedding"].any()
    own = flatten(system.variables["tokenizer"]["params"])
    np.testing.assert_array_equal(flatten(state["params"])["decoder/mask"], own["decoder/mask"])
    output = capsys.readouterr().out
    assert "skipped (3)" in output
    assert "params/quantizer/embedding: ours (6, 16), candidate (4, 16)" in output


def test_official_weights(tmp_path, capsys):
    config = small_official()
    tensors = checkpoint(config)
    model = from_official(config)
    path = tmp_path / "bae.safetensors"
    write_tensors(
        path, {k: v for k, v in tensors.items() if k.startswith("bae.")}, {"config": json.dumps(config)}
    )
    state = initialiser(str(path), "instella_t2i", "tokenizer")(fresh(model))
    params = flatten(state["params"])
    np.testing.assert_array_equal(params["encoder/queries"], tensors["bae.encoder.latent_tokens"][0])
    np.testing.assert_array_equal(params["encoder/out/kernel"], tensors["bae.encoder.proj_out.weight"].T)
    assert_trees_close(state["ema"], state["params"], 0)
    assert "missing (0)" in capsys.readouterr().out
    untouched = fresh(model)
    same = initialiser(str(path), "instella_t2i", "diffusion")(untouched)
    assert same is untouched
    assert "diffusion: " in (output := capsys.readouterr().out) and "so it starts fresh" in output
    assert "['tokenizer']" in output


def test_what_cannot_be(small_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such run, folder or file"):
        initialiser(str(tmp_path / "nothing"), "instella_t2i", "tokenizer")
    with pytest.raises(ValueError, match="no parameter has the same path and shape"):
        alien = {"params": {"x": jnp.zeros(3)}, "step": jnp.int32(0)}
        initialiser(str(small_run[0]), "instella_t2i", "tokenizer")(alien)
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        initialiser(str(tmp_path / "empty"), "instella_t2i", "tokenizer")(fresh())
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"config\.json"):
        initialiser(str(tmp_path / "empty"), "instella_t2i", "tokenizer")(fresh())


@pytest.mark.slow  # compiles a step; groups and weights to start from have cheaper tests by default
def test_fine_tuning_with_a_frozen_encoder(small_run, system, tmp_path):
    update = tokenizer_update(SMALL, dataclasses.replace(FIT, groups=((r"^encoder/", 0.0),)))
    initialise = initialiser(str(small_run[0]), "instella_t2i", "tokenizer")
    stage = Stage("tokenizer", update, DATA, 2)
    state, _ = fit(stage, Run(str(tmp_path)), {}, initialise=initialise)
    before, after = flatten(system.variables["tokenizer"]["params"]), flatten(jax.device_get(state["params"]))
    for path, leaf in before.items():
        assert np.array_equal(after[path], leaf) == path.startswith("encoder/"), path
