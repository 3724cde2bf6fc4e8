import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.codes import CodeSpace, Latents, Layout
from jaxtok.data.embedded import Digits
from jaxtok.evaluate.protocol import difference
from jaxtok.evaluate.references import read_reference
from jaxtok.run.evaluators.features import FeatureMeasures, FeatureOptions
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.systems.image.base import ImageSystem
from jaxtok.train.loop import evaluation_batches
from jaxtok.train.stage import TrainedStage

DATA = Digits(image_sizes=(8,), channels=1, batch_size=64)
LEVELS = 5
SPACE = CodeSpace((LEVELS,))


class Levels(ImageSystem):
    """A tokenizer whose codes are grey levels; its module and its system in one."""

    space, layout, quantizer = SPACE, Layout(64), None

    def tokenizer(self):
        return self

    def apply(self, variables, codes, method):
        assert method == "embed"
        return codes.astype(jnp.float32)

    def encode_images(self, variables, images):
        levels = jnp.round(images.astype(jnp.float32) * (LEVELS - 1) / 255)
        return Latents(codes=levels.reshape(len(images), -1, 1).astype(jnp.int32))

    def decode_images(self, variables, latents, size=None):
        codes = latents.codes if isinstance(latents, Latents) else latents
        return codes.reshape(-1, 8, 8, 1) * 2 / (LEVELS - 1) - 1


MODEL = Levels()


@dataclasses.dataclass(frozen=True)
class Recaller:
    """Samples training images in turn, or black ones without guidance."""

    guidances: tuple[float, ...] = (3.0, 0.0)

    @property
    def description(self):
        return {"prior": "memory"}

    def __call__(self, variables, frozen, batch, key, guidance):
        labels = batch["label"]
        rows = jax.random.randint(key[0], (len(labels),), 0, len(variables["params"]))
        return MODEL.encode_images({}, variables["params"][rows] * (guidance > 0))


@pytest.fixture(scope="module")
def trained():
    source = DATA.open("train")
    images = np.stack([source[number]["image"] for number in range(len(source))])
    batches = lambda: evaluation_batches(DATA)
    return TrainedStage({"params": jnp.asarray(images)}, {"tokenizer": {}}, batches, jax.random.key(0), True)


@pytest.fixture(scope="module")
def measures(tmp_path_factory):
    file = tmp_path_factory.mktemp("reference") / "digits.npz"
    options = FeatureOptions(perturb=("0.5:3",), save_reference=str(file))
    return FeatureMeasures(options, seed=7), file


@pytest.fixture(scope="module")
def sampled(measures, trained):
    evaluator = SampleEvaluator(MODEL, DATA, captions=10, per_caption=20, sampler=Recaller())
    return by_name(measures[0].evaluate(evaluator, trained))


def by_name(results):
    return {result.name: result for result in results}


def test_reconstructions(measures, trained):
    results = by_name(measures[0].evaluate(TokenizerEvaluator(MODEL), trained))
    assert 0 < results["rfd_digits"].value < results["pfd_digits_a0.5_d3"].value
    assert results["psnr_uint8"].value > 15 and 0 < results["perceptual_digits"].value < 0.2
    assert results["r_precision_digits"].value > 0.9 and results["rsfd_digits"].value > 0
    protocol = results["pfd_digits_a0.5_d3"].protocol
    assert (protocol["alpha"], protocol["delta"], protocol["seed"]) == (0.5, 3, 7)
    assert protocol["images"] == protocol["reference_images"] == 297  # padding does not count
    assert protocol["weights"] == "average" and protocol["reference"] == "the originals"
    versions = {results[name].protocol["network_version"] for name in ("rfd_digits", "perceptual_digits")}
    assert len(versions) == 1 and not any("fid" in name or "lpips" in name for name in results)


def test_samples_with_each_guidance(sampled):
    good, bad = sampled["gfd_digits_w3"], sampled["gfd_digits_w0"]
    assert good.value < 0.1 * bad.value
    assert sampled["precision_digits_w3"].value > 0.8 > 0.1 > sampled["recall_digits_w0"].value
    assert sampled["class_score_digits_w3"].value > 5
    assert sampled["class_score_digits_w0"].value == pytest.approx(1)
    protocol = good.protocol
    assert protocol["images"] == 200 and protocol["reference_images"] == 1500 and protocol["seed"] == 7
    assert protocol["reference"] == "train split of digits" and protocol["guidance"] == 3.0
    assert protocol["weights"] == "average" and protocol["prior"] == "memory"
    with pytest.raises(ValueError, match=r"guidance: 3.0 against 0.0"):
        difference(good, dataclasses.replace(bad, name=good.name))


def test_a_file_of_statistics_in_place_of_the_training_split(measures, sampled, trained):
    file = measures[1]
    reference = read_reference(file)
    assert reference.images == 1500
    assert reference.hash == sampled["gfd_digits_w3"].protocol["reference_hash"]
    again = FeatureMeasures(FeatureOptions(reference=str(file), samples=50, images=100))
    evaluator = SampleEvaluator(MODEL, DATA, captions=10, per_caption=20, sampler=Recaller((3.0,)))
    results = by_name(again.evaluate(evaluator, trained))
    protocol = results["gfd_digits"].protocol
    assert protocol["reference_images"] == 1500
    assert protocol["images"] == 50 and protocol["per_caption"] == 5
    assert results["precision_digits"].protocol["reference_images"] == 100


def test_inceptions_numbers_have_inceptions_names(monkeypatch, trained):
    from jaxtok.evaluate.features.digits import digit_network
    from jaxtok.run.evaluators import features as feature_views

    def inception(source, preprocessing):
        assert (source, preprocessing) == ("weights.pth", "torch")
        titles = (("frechet", "fid"), ("spatial", "sfid"), ("kernel", "kid"), ("score", "inception_score"))
        return dataclasses.replace(digit_network(), name="inception", titles=titles)

    monkeypatch.setattr(feature_views, "inception_network", inception)
    options = FeatureOptions(inception="weights.pth", preprocessing="torch", images=100)
    measures = FeatureMeasures(options)
    tokenizer = by_name(measures.evaluate(TokenizerEvaluator(MODEL), trained))
    assert {"rfid", "rsfid", "rkid", "r_precision_inception", "pfid_a0.5_d5"} <= set(tokenizer)
    assert tokenizer["rfid"].protocol["images"] == 100  # of 297
    images = np.asarray(trained.variables["params"])[:100]
    samples = by_name(measures.samples(DATA, images, np.zeros(100), []))
    assert {"gfid", "sfid", "gkid", "precision_inception", "inception_score"} <= set(samples)


def test_errors(trained):
    for options, message in (
        (FeatureOptions(perturb=("0.5",)), "write alpha:delta"),
        (FeatureOptions(images=1), "at least 2 images"),
        (FeatureOptions(inception="/nowhere.pth"), "no checkpoint at /nowhere.pth"),
        (FeatureOptions(reference="/nowhere.npz"), "/nowhere.npz"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            FeatureMeasures(options)
    with pytest.raises(ValueError, match="delta=9 of 5 codes"):
        FeatureMeasures(FeatureOptions(perturb=("1:9",))).evaluate(TokenizerEvaluator(MODEL), trained)

    class Continuous(Levels):
        space = None

    asked, evaluator = FeatureMeasures(FeatureOptions(perturb=("1:2",))), TokenizerEvaluator(Continuous())
    with pytest.raises(ValueError, match="perturbed codes need a tokenizer of one list"):
        asked.reconstructions(evaluator, trained)
