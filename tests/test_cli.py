import contextlib
import dataclasses
import functools
import io
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.image import instella_t2i
from jaxtok import cli
from jaxtok.evaluate.protocol import read_results
from jaxtok.quantize.binary import BinaryConfig
from jaxtok.run import pretrained
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.pretrained import load
from tests.small_run import SMALL_CONFIG, small_cli, train_small

STAGES = ["tokenizer", "independent", "independent_by_class", "diffusion", "autoregressive"]
CAPTIONS = ("--captions", "a handwritten seven", "a handwritten two")


@pytest.fixture(scope="module")
def workdir(small_run):
    return small_run[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def image(path):
    return np.asarray(Image.open(path))


def error_of(capsys, *argv):
    """The one line that a command which fails prints."""
    with pytest.raises(SystemExit) as stopped:
        small_cli(*argv)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@functools.cache
def help_of(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stopped:
        experiment = instella_t2i
        cli.main("instella_t2i", experiment.PRESETS, experiment.stages, (), experiment.__doc__, argv)
    assert stopped.value.code == 0
    return out.getvalue()


def test_train_writes_everything_and_prints_a_table(small_run):
    workdir, output = small_run
    expected = {
        "checkpoints",
        "config.json",
        "figures",
        "metrics.jsonl",
        "results.json",
        "run.lock",
        "summary.json",
    }
    assert expected <= set(names(workdir))
    config = json.loads((workdir / "config.json").read_text())
    assert config["experiment"] == "instella_t2i" and config["config"]["tokenizer"]["steps"] == 3
    assert config["versions"]["jax"] == jax.__version__ and config["seed"] == 0
    summary = json.loads((workdir / "summary.json").read_text())
    assert list(summary) == STAGES and [row["steps"] for row in summary.values()] == [3] * 5
    results = {result.name: result for result in read_results(workdir / "results.json")}
    assert {name.partition("/")[0] for name in results} == set(STAGES)
    for stage, row in summary.items():
        for name in set(row) - {"steps", "seconds"}:
            assert results[f"{stage}/{name}"].value == row[name]
    figures = names(workdir / "figures")
    assert (
        "tokenizer_reconstructions_0000003.png" in figures and "diffusion_samples_w3_0000003.png" in figures
    )
    assert (
        "tokenizer        9,652 parameters" in output.replace("        9,652", " 9,652", 1)
        or "9,652" in output
    )
    assert "held-out results" in output and str(workdir) in output.splitlines()[-1]


def test_other_settings_are_refused_with_the_list_of_differences(workdir, capsys):
    with pytest.raises(SystemExit):
        train_small(workdir, "--model.quantizer.bits", "5", "--seed", "2")
    message = capsys.readouterr().err
    assert "holds a run with another configuration" in message
    assert (
        "config.model.quantizer.bits: 4 -> 5" in message
        and "seed: 0 -> 2" in message
        and "--init-from" in message
    )


@pytest.mark.slow
def test_evaluate_repeats_the_results_of_training(workdir, tmp_path):
    workdir = shutil.copytree(workdir, tmp_path / "run")  # results are written again
    before = read_results(workdir / "results.json")
    output = small_cli("evaluate", "--workdir", workdir)
    after = {result.name: result for result in read_results(workdir / "results.json")}
    assert {result.name for result in before} < set(after)
    for old in before:
        new = after[old.name]
        assert old.protocol == new.protocol
        if "per_second" not in old.name:
            assert new.value == pytest.approx(old.value, abs=1e-5), old.name
    beside = set(after) - {result.name for result in before}
    assert {"tokenizer/rfd_digits", "tokenizer/pfd_digits_a0.5_d16", "diffusion/gfd_digits_w3"} <= beside
    assert not any("fid" in name or "inception" in name for name in after)
    weights = {name.partition("/")[0]: result.protocol["weights"] for name, result in after.items()}
    assert weights == {
        "tokenizer": "average", "independent": "raw", "independent_by_class": "raw",
        "diffusion": "average", "autoregressive": "average",
    }  # fmt: skip
    assert "independent" in output and "gfd_digits_w3" in output and "results.json" in output
    plain = ("--features.network", "none", "--out", tmp_path / "plain.json")
    small_cli("evaluate", "--workdir", workdir, *plain)
    assert [r.name for r in read_results(tmp_path / "plain.json")] == [r.name for r in before]


@pytest.mark.parametrize("prior", ["diffusion", pytest.param("autoregressive", marks=pytest.mark.slow)])
def test_sample_writes_images_and_a_grid(workdir, tmp_path, prior):
    arguments = ("sample", "--workdir", workdir, "--prior", prior, "--count", "3", *CAPTIONS)
    output = small_cli(*arguments, "--out", tmp_path / "a", "--guidance", "1.5")
    assert names(tmp_path / "a") == [
        *(f"{number:06d}.png" for number in range(6)),
        "grid.png",
        "requests.jsonl",
    ]
    assert image(tmp_path / "a" / "000005.png").shape == (8, 8)
    assert f"6 images, requests.jsonl and grid.png in {tmp_path / 'a'}" in output
    expected, _ = load(workdir).sample(
        ["a handwritten seven"] * 3 + ["a handwritten two"] * 3, prior, guidance=1.5
    )
    written = np.stack([image(tmp_path / "a" / f"{number:06d}.png") for number in range(6)])
    np.testing.assert_array_equal(written, expected[..., 0])


def test_encode_and_decode(workdir, tmp_path):
    arguments = ("encode", "--workdir", workdir, "--split", "eval", "--shard-size", "100")
    output = small_cli(*arguments, "--out", tmp_path / "tokens")
    # 3 tokens of 4 bits; a record of the file holds 64 KiB, so there is one file.
    assert "297 images as 2 bytes each, 0.13 MB in 1 file in" in output
    decoded = ("decode", "--workdir", workdir, "--tokens", tmp_path / "tokens", "--out")
    assert "128 images" in small_cli(*decoded, tmp_path / "some", "--count", "128")
    assert "297 images" in small_cli(*decoded, tmp_path / "all", "--count", "0", "--size", "16")
    assert len(names(tmp_path / "some")) == 128 and len(names(tmp_path / "all")) == 297
    assert image(tmp_path / "all" / "000000.png").shape == (16, 16)
    # The second of the batches that the verb decodes, and the first image.
    source, system = SMALL_CONFIG.data.open("eval"), load(workdir)
    held_out = np.stack([source[number]["image"] for number in (0, *range(65, 128))])
    restored = system.reconstruct(held_out)[..., 0]
    for number, expected in zip((0, *range(65, 128)), restored):
        np.testing.assert_array_equal(image(tmp_path / "some" / f"{number:06d}.png"), expected)


def test_verify_evaluates_a_claim(tmp_path):
    # What the arms change is not compiled into a step, so the second arm runs the program of the first.
    arms = (
        Arm("mirrored", "tokenizer/psnr_uint8", (("data.flip", True),)),
        Arm("as they are", "tokenizer/psnr_uint8"),
    )
    claims = (Claim("Digits that are not mirrored", arms), Claim("a prior", instella_t2i.CLAIMS[2].arms))
    flags = ("--steps", "3", "--seeds", "0", "--only", "NOT mirrored", "zebra")
    out = tmp_path / "out" / "claims.json"
    output = small_cli("verify", "--workdir", tmp_path, *flags, "--out", out, claims=claims)
    outcome = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert outcome["seeds"] == [0] and outcome["steps"] == 3 and outcome["preset"] == "tiny"
    (claim,) = outcome["claims"]
    assert [arm["label"] for arm in claim["arms"]] == ["mirrored", "as they are"]
    assert claim["holds"] == (claim["arms"][1]["values"][0] > claim["arms"][0]["values"][0])
    assert "holds in every seed" in output
    runs = [folder for folder in tmp_path.iterdir() if (folder / "seed-0").exists()]
    assert len(runs) == 2
    assert all(names(folder / "seed-0" / "checkpoints") == ["tokenizer"] for folder in runs)  # and no prior


@pytest.mark.slow
def test_verify_runs_every_claim(tmp_path):
    small_cli("verify", "--workdir", tmp_path, "--steps", "3", "--seeds", "0")
    outcome = json.loads((tmp_path / "claims.json").read_text())
    assert [claim["name"] for claim in outcome["claims"]] == [claim.name for claim in instella_t2i.CLAIMS]


def test_help_says_what_there_is():
    text = help_of("--help")
    flat = " ".join(text.replace("│", " ").split())
    assert "arXiv 2506.21022" in flat and "tiny, shapes, cifar10, bae-1024" in flat
    for verb in ("train", "evaluate", "sample", "encode", "decode", "verify", "plan", "sweep"):
        assert f"\n  {verb} " in text
    for flag, description in (
        ("--workdir", "Running the same command again continues there. (default: runs/instella_t2i-tiny)"),
        ("--data.batch-size", "Examples per step over all hosts together. (default: 64)"),
        ("--model.quantizer.bits", "n, bits per token of binary latents. (default: 16)"),
        ("--model.encoder.heads", "attention heads."),
        ("--model.diffusion-settings.steps", "network evaluations."),
        ("--weights.bit-weight", "of the bit regulariser"),
        ("--tokenizer.learning-rate", "Its highest value. (default: 0.002)"),
        ("--mesh.fsdp", "share one copy of the parameters"),
    ):
        assert f"{flag} " in flat and description in flat.partition(f"{flag} ")[2][:400], flag


def test_every_flag_has_a_description():
    lines = [line.strip("│ \n") for line in help_of("--help").splitlines()]
    bare = [
        flag
        for flag, text in itertools.pairwise(lines)
        if flag.startswith("--") and text.startswith("(default")
    ]
    assert bare == []


def test_help_of_verbs_and_presets():
    assert "runs/instella_t2i-shapes" in help_of("--preset", "shapes", "--help")
    text = help_of("sample", "--help")
    assert "Samples what is asked for" in text and "--prior" in text and "Attributes" not in text
    assert "--tokenizer.steps" in help_of("verify", "--help")


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["trian"],
            "no verb 'trian'; there are train, evaluate, sample, encode, decode, verify, plan, sweep",
        ),
        (["sweep"], "name a stage and one of its results, such as --metric tokenizer/"),
        (["sweep", "--metric", "tokenizer/psnr_uint8"], "nothing to vary"),
        (["--config", "x.json", "--preset", "tiny"], "--preset and --config are two places"),
        (["--preset", "huge"], "no preset 'huge'; there are tiny, other"),
        (["--preset=huge"], "no preset 'huge'"),
        (["--tokeniser.steps", "3"], "unknown '--tokeniser.steps 3'; did you mean --tokenizer.steps"),
        (["evaluate", "--wrkdir", "x"], "unknown '--wrkdir x'; did you mean --workdir"),
        (["--preset", "tiny", "evaluate"], "unknown 'evaluate'"),
        (["evaluate", "--workdir", "/nowhere"], "/nowhere holds no run"),
        (["decode", "--workdir", "/nowhere"], "/nowhere holds no run"),
        (["verify", "--only", "zebra"], "no claim has any of the words ['zebra'] in its name"),
        (["--init-from", "/nowhere"], "--init-from /nowhere: there is no such run, folder or file"),
    ],
)
def test_errors_are_one_line(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *argv)


def test_an_experiment_may_have_some_of_the_verbs(capsys):
    def run(*argv):
        with pytest.raises(SystemExit):
            cli.main(
                "x", instella_t2i.PRESETS, instella_t2i.stages, (), "text", argv, verbs=("train", "verify")
            )
        return capsys.readouterr()

    assert "no verb 'sample'; there are train, verify" in run("sample").err
    out = run("--help").out
    assert "\n  verify " in out and "\n  decode " not in out


def test_a_value_that_cannot_be_names_its_flag(capsys):
    for words, message in (
        (["--tokenizer.steps", "-1"], "steps is -1, it has to be 0 or more"),
        (["--seed", "x"], "--seed"),
    ):
        with pytest.raises(SystemExit) as stopped:
            small_cli(*words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_errors_of_sampling_are_one_line(capsys, workdir, tmp_path):
    assert "samples images for captions; give captions" in error_of(capsys, "sample", "--workdir", workdir)
    error = error_of(capsys, "sample", "--workdir", workdir, "--prior", "flow", *CAPTIONS)
    assert "no 'flow' in this system" in error
    error = error_of(
        capsys, "sample", "--workdir", workdir, "--prior", "autoregressive", "--steps", "3", *CAPTIONS
    )
    assert "sampler settings ['steps'] are unknown to the autoregressive prior" in error


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        small_cli("evaluate", "--workdir", tmp_path, "--debug")


def test_what_training_was_stopped_at_is_no_error(monkeypatch, tmp_path):
    from jaxtok.run import verbs
    from jaxtok.train.loop import Stopped

    def stopped(*_):
        raise Stopped("tokenizer stopped at step 2 of 3; the same command continues there")

    monkeypatch.setattr(verbs, "train_verb", stopped)
    assert "the same command continues there" in small_cli("--workdir", tmp_path)


def test_presets_are_changed_by_flags(monkeypatch, tmp_path):
    from jaxtok.run import verbs

    seen = []
    monkeypatch.setattr(verbs, "train_verb", lambda experiment, config, run: seen.append((config, run)))
    small_cli(
        "--preset", "other", "--model.quantizer.bits", "9", "--data.image-sizes", "8", "16", "--seed", "5"
    )
    ((config, run),) = seen
    model = dataclasses.replace(SMALL_CONFIG.model, quantizer=BinaryConfig(bits=9, temperature=1.0))
    data = dataclasses.replace(SMALL_CONFIG.data, image_sizes=(8, 16))
    assert config == dataclasses.replace(SMALL_CONFIG, classes=0, model=model, data=data)
    assert run.seed == 5 and run.workdir == "runs/instella_t2i-other"


def test_a_run_without_averages_says_raw(workdir):
    shapes = SMALL_CONFIG.model.shapes()["tokenizer"]
    assert pretrained.restore_stage(workdir, "tokenizer", shapes).averaged
    assert not pretrained.restore_stage(workdir, "tokenizer", shapes, averaged=False).averaged
    assert pretrained.restore_stage(workdir, "nothing", shapes) is None
