"""Measures of latents on request, of tokenizers that are made by hand."""

import dataclasses
import shutil

import numpy as np
import pytest

from jaxtok.evaluate.protocol import Result, read_results
from jaxtok.run.evaluators.latents import LatentMeasures, LatentOptions
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samples import SampleEvaluator
from tests.run.evaluators.test_reconstructions import (
    DATA,
    HeldOut,
    Pixels,
    Recaller,
    Values,
    by_name,
    trained,
)
from tests.small_run import small_cli


@dataclasses.dataclass(frozen=True)
class GridOfPixels(Pixels):
    grid: tuple[int, int] = (8, 8)
    tokens: int = 64


def measured(evaluator, found=(), **options):
    measures = LatentMeasures(LatentOptions(**options))
    return by_name(measures.results(evaluator, trained(), DATA, found))


def test_nothing_is_measured_unasked():
    assert measured(TokenizerEvaluator(Pixels())) == {}
    assert measured(SampleEvaluator(Pixels(), DATA, None), [Result("nll_nats_per_slot", 1.0)]) == {}
    with pytest.raises(ValueError, match="at least one image"):
        LatentMeasures(LatentOptions(images=0))


def test_what_no_stage_can_be_measured_by_is_an_error():
    measures = LatentMeasures(LatentOptions(slots=True, rates=True))
    measures.results(TokenizerEvaluator(Values(), frozen=("teacher",)), trained(), DATA, [])  # no codes
    with pytest.raises(ValueError, match=r"--latents\.rates, --latents\.slots measured nothing: no stage"):
        measures.check_served()
    measures.results(TokenizerEvaluator(Pixels()), trained(), DATA, [])
    measures.check_served()


def test_codes_of_held_out_images():
    results = measured(TokenizerEvaluator(GridOfPixels()), slots=True, language=True, images=50)
    assert results["code_usage_slot_0"].protocol["images"] == 50
    # Rows of a digit are no random order of its pixels.
    rows, mixed = (results[f"language_zlib_share_{name}"] for name in ("rows", "shuffled"))
    assert rows.value < mixed.value - 0.05
    assert rows.protocol["split"] == "eval" and rows.protocol["images"] == 50
    assert "language_zlib_share_given" in measured(TokenizerEvaluator(Pixels()), language=True, images=5)


def test_probes_are_trained_on_the_training_split():
    results = measured(TokenizerEvaluator(Pixels()), probes=True, images=100)
    assert set(results) == {
        f"probe_{kind}_accuracy_{n}pct" for kind in ("one_hot", "bits") for n in (10, 100)
    }
    best = results["probe_bits_accuracy_100pct"]
    assert best.value > 0.5 > results["probe_bits_accuracy_10pct"].protocol["majority_accuracy"]
    assert best.protocol["train_examples"] == best.protocol["test_examples"] == 100
    evaluator = TokenizerEvaluator(Values(), frozen=("teacher",))
    there = dataclasses.replace(trained(), frozen={"teacher": {"shift": np.float32(3)}})
    values = LatentMeasures(LatentOptions(probes=True, slots=True, images=100)).results(
        evaluator, there, DATA, []
    )
    assert by_name(values)["probe_values_accuracy_100pct"].value > 0.8


def test_rates_come_from_a_likelihood():
    evaluator = SampleEvaluator(GridOfPixels(), DATA, None, sampler=Recaller(), objective=HeldOut())
    found = [Result("nll_nats_per_slot", np.log(16), {"split": "eval"})]
    results = measured(evaluator, found, rates=True)
    assert results["entropy_coded_bits_per_pixel"].value == pytest.approx(4)
    assert results["entropy_coded_share"].value == pytest.approx(0.5)
    assert results["entropy_coded_share"].protocol["split"] == "eval"
    assert measured(TokenizerEvaluator(Pixels()), rates=True, images=1)["nominal_bits_per_pixel"].value == 8
    assert measured(evaluator, [Result("masked_loss_nats_per_slot", 1.0)], rates=True) == {}


def test_clip_is_one_more_scorer(monkeypatch):
    class Scorer:
        def __init__(self, path):
            assert path == "folder"

        def results(self, captions, images):
            return [Result("clip_score_x100", float(len(captions)))]

    monkeypatch.setattr("jaxtok.evaluate.clip_score.ClipScorer", Scorer)
    measures = LatentMeasures(LatentOptions(clip="folder"))
    evaluator = measures.scored(
        TokenizerEvaluator(Pixels(), lambda images, labels, captions: [Result("own", 1.0)])
    )
    results = by_name(evaluator.evaluate(trained()))
    assert results["reconstruction_clip_score_x100"].value == 297 and "reconstruction_own" in results
    assert LatentMeasures(LatentOptions()).scored(evaluator) is evaluator


@pytest.mark.slow
def test_evaluate_takes_the_options(small_run, tmp_path):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")  # results are written again
    flags = [f"--latents.{name}" for name in ("slots", "language", "probes", "rates")]
    output = small_cli("evaluate", "--workdir", workdir, *flags, "--latents.images", "60")
    names = {result.name for result in read_results(workdir / "results.json")}
    assert {
        "tokenizer/code_usage_slot_3",
        "tokenizer/nominal_bits_per_pixel",
        "tokenizer/language_entropy_bits",
        "tokenizer/language_lz78_share_shuffled",
        "tokenizer/probe_bits_accuracy_100pct",
        "independent/entropy_coded_bits_per_image",
        "autoregressive/entropy_coded_share",
    } <= names
    assert "language_zipf_exponent" in output and "diffusion/entropy_coded_share" not in names
