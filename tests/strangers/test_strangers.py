"""Systems of other kinds of signal, defined in this folder alone, run the verbs that make sense for them.

Nothing in the library names them: what they need is in their own files, as of every new system.
What makes no sense for one is refused by name.
"""

import contextlib
import io
import json
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxtok
from jaxtok.data.token_shards import TokenShards
from jaxtok.nn.masked_transformer import masked_vocab
from jaxtok.nn.permuted_transformer import PermutedTransformer
from jaxtok.priors.contract import Prior
from jaxtok.priors.permuted import Permuted
from jaxtok.run import from_pretrained, save_pretrained
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.stages import prior_stage
from jaxtok.train.schedules import TrainConfig
from tests.strangers import analysis, motion, sound, text

MODULES = {"analysis": analysis, "motion": motion, "sound": sound, "text": text}
SLOW = pytest.mark.slow


def command(name, *words):
    """What the command line of a stranger prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        MODULES[name].main([str(word) for word in words])
    return out.getvalue()


def error_of(capsys, name, *words):
    with pytest.raises(SystemExit) as stopped:
        command(name, *words)
    assert stopped.value.code == 1
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a trained stranger, and what its training printed; each is trained once."""
    done = {}

    def trained(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            steps = () if name == "analysis" else ("--prior.steps", "2")
            done[name] = folder, command(name, "train", "--workdir", folder, *steps)
        return done[name]

    return trained


def metrics(folder):
    return {row["name"]: row["value"] for row in json.loads((folder / "results.json").read_text())}


def test_an_analysis_trains_nothing(run, capsys):
    folder, printed = run("analysis")
    assert "share_of_spaces" in printed and (folder / "figures").exists()
    assert metrics(folder) == {"letters/share_of_spaces": 0.25}
    assert "share_of_spaces" in command("analysis", "evaluate", "--workdir", folder)
    for verb in ("sample", "encode"):
        assert "train it first, if it has something to train" in error_of(
            capsys, "analysis", verb, "--workdir", folder
        )
    assert "no stage of letters trains anything" in error_of(
        capsys, "analysis", "plan", "--topology", "gpu:2"
    )


def test_a_text_prior_has_no_tokenizer(run, tmp_path, capsys):
    folder, printed = run("text")
    assert "masked_loss_nats_per_slot" in printed and "64 records" in printed
    command("text", "sample", "--workdir", folder, "--count", "3", "--out", tmp_path)
    texts = [(tmp_path / f"{number:06d}.txt").read_text().rstrip("\n") for number in range(3)]
    assert all(len(line) == 8 and set(line) <= set("ab ") for line in texts)
    assert "Writer has no tokenizer" in error_of(capsys, "text", "encode", "--workdir", folder)
    message = error_of(capsys, "text", "sample", "--workdir", folder, "--captions", "a")
    assert "samples without a condition; say how many" in message
    assert "masked_loss" in command("text", "evaluate", "--workdir", folder)
    message = error_of(capsys, "text", "evaluate", "--workdir", folder, "--latents.slots")
    assert "--latents.slots measured nothing" in message
    message = error_of(capsys, "text", "evaluate", "--workdir", folder, "--features.images", "9")
    assert "--features measured nothing" in message
    trained = jaxtok.load(folder)
    save_pretrained(trained, tmp_path / "saved")
    values, latents = from_pretrained(tmp_path / "saved").sample(2, seed=1)
    np.testing.assert_array_equal(values, trained.sample(2, seed=1)[0])
    assert latents.codes.shape == (2, 8, 1)


def test_a_prior_that_would_attend_to_padding_is_refused():
    model, data = motion.Poses(), motion.WaveData(batch_size=8)
    network = PermutedTransformer(masked_vocab(model.space, 3), model.tokens, 1, 2, 4, 16)
    prior, look = Prior(network, Permuted(model.space)), SampleEvaluator(model, data)
    with pytest.raises(ValueError, match="PermutedTransformer would attend to their padding"):
        prior_stage("permuted", prior, model, data, TrainConfig(), look)


@SLOW
def test_motions_have_lengths(run, tmp_path):
    folder, printed = run("motion")
    assert "bits_per_motion" in printed and "motion_snr_db" in printed
    command(
        "motion", "sample", "--workdir", folder, "--count", "2", "--lengths", "7", "--out", tmp_path / "s"
    )
    assert np.load(tmp_path / "s" / "000001.npy").shape == (7, 6)
    with Image.open(tmp_path / "s" / "000001.gif") as moving:
        assert moving.n_frames >= 2
    assert "64 motions as 6 bytes each" in command("motion", "encode", "--workdir", folder)
    tokens = TokenShards(folder / "tokens-train")
    source = motion.Waves(64, 0)
    lengths = tokens.lengths(range(64))
    assert lengths is not None and lengths.tolist() == [len(source[index]["motion"]) for index in range(64)]
    command("motion", "decode", "--workdir", folder, "--count", "3", "--out", tmp_path / "d")
    assert len(np.load(tmp_path / "d" / "000002.npy")) == lengths[2]
    flags = ("--tokenizer.steps", "0", "--init-from", folder, "--prior.steps", "2", "--only", "masked")
    again = ("train", "--workdir", tmp_path / "again", *flags, "--tokens", folder / "tokens-train")
    assert "masked_loss" in command("motion", *again)


@SLOW
def test_a_codec_streams(run, tmp_path, capsys):
    folder, printed = run("sound")
    assert "bits_per_recording" in printed and "waveform_snr_db" in printed
    command("sound", "sample", "--workdir", folder, "--count", "1", "--labels", "0", "2", "--out", tmp_path)
    with wave.open(str(tmp_path / "000001.wav")) as opened:
        assert opened.getframerate() == sound.RATE and opened.getnframes() == 80
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert rows == [{"file": "000000.wav", "label": 0}, {"file": "000001.wav", "label": 2}]
    (tmp_path / "wanted.csv").write_text("label\n1\n")
    command("sound", "sample", "--workdir", folder, "--request", tmp_path / "wanted.csv", "--count", "1")
    message = error_of(capsys, "sound", "sample", "--workdir", folder, "--prior", "flow", "--labels", "1")
    assert "no 'flow' in this system" in message
    assert "64 recordings as 8 bytes each" in command("sound", "encode", "--workdir", folder)
    assert "64 recordings" in command("sound", "decode", "--workdir", folder, "--count", "0")

    trained = jaxtok.load(folder)
    tokenizer, variables = trained.system.tokenizer(), trained.variables["tokenizer"]
    x = jnp.asarray(sound.Beeps(2, 5).raw(1)["audio"][None, :32])

    @jax.jit
    def both(x):
        carry, codes, parts = tokenizer.init_carry(1), [], []
        for start in range(0, 32, 8):
            chunk = x[:, start : start + 8]
            carry, latents = tokenizer.apply(variables, carry, chunk, method="encode_chunk")
            carry, part = tokenizer.apply(variables, carry, latents, method="decode_chunk")
            codes.append(latents.codes)
            parts.append(part)
        whole = tokenizer.apply(variables, x, method="encode")
        signal = tokenizer.apply(variables, whole.codes, 32, method="decode")
        return jnp.concatenate(codes, 1), whole.codes, jnp.concatenate(parts, 1), signal

    chunked, whole, parts, signal = both(x)
    np.testing.assert_array_equal(chunked, whole)
    np.testing.assert_allclose(parts, signal, atol=1e-5)


@SLOW
def test_plan_sweep_and_verify(run, tmp_path):
    printed = command("text", "plan", "--topology", "gpu:2", "--out", tmp_path / "plan.json")
    assert "masked" in printed and (tmp_path / "plan.json").exists()
    claims = command("sound", "verify", "--workdir", tmp_path / "v", "--seeds", "0", "--steps", "2")
    assert "more codebooks, higher SNR" in claims
    pytest.importorskip("optuna")
    space = ("--space", "prior.learning_rate=1e-3:1e-2", "--trials", "2")
    swept = command(
        "text", "sweep", "--workdir", tmp_path / "w", "--metric", "masked/masked_loss_nats_per_slot", *space
    )
    assert "2 of 2 done" in swept or "trial 1" in swept
