import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Latents
from jaxtok.data.embedded import Digits
from jaxtok.data.errors import BadRecord
from jaxtok.data.shapes import Shapes
from jaxtok.evaluate.protocol import Result
from jaxtok.run.evaluators import reconstructions as image_views
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samplers import IndependentSampler, OtherCaptions, PriorSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.systems.image.base import ImageSystem
from jaxtok.systems.image.titok import TiTok
from jaxtok.train.loop import evaluation_batches
from jaxtok.train.stage import TrainedStage
from tests.small_system import SMALL

DATA = Digits(image_sizes=(8,), channels=1, batch_size=64, text_length=24)
SPACE = CodeSpace((256,))


@dataclasses.dataclass(frozen=True)
class Pixels(ImageSystem):
    """A tokenizer that loses nothing: every pixel is a token."""

    space: CodeSpace = SPACE

    def encode_images(self, variables, images):
        return Latents(codes=images.reshape(len(images), -1, 1).astype(jnp.int32))

    def decode_images(self, variables, latents, size=None):
        codes = latents.codes if isinstance(latents, Latents) else latents
        return codes.reshape(-1, 8, 8, 1) / 127.5 - 1


@dataclasses.dataclass(frozen=True)
class Recaller:
    """Samples a real image of the wanted digit, or noise without guidance."""

    guidances: tuple[float, ...] = (3.0, 0.0)

    @property
    def description(self):
        return {"prior": "memory"}

    def __call__(self, variables, frozen, batch, key, guidance):
        labels = batch["label"]
        images = variables["params"][labels].reshape(len(labels), 64, 1)
        noise = (random.uniform(random.example_keys(key, len(labels)), (64, 1)) * 256).astype(jnp.int32)
        return Latents(codes=images if guidance else noise)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    loss_name = "nll"

    def held_out(self, variables, batch, frozen, keys):
        return jnp.mean(batch["label"].astype(jnp.float32))


def trained(params=(), averaged=True, data=DATA):
    frozen = {"tokenizer": {}}
    batches = lambda: evaluation_batches(data)
    return TrainedStage({"params": params}, frozen, batches, jax.random.key(0), averaged)


@pytest.fixture(scope="module")
def examples():
    """A real image of every digit, int32 [10, 8, 8, 1]."""
    source, found = DATA.open("train"), {}
    for number in range(100):
        found.setdefault(int(source[number]["label"]), source[number]["image"])
    return jnp.asarray(np.stack([found[digit] for digit in range(10)]), jnp.int32)


def by_name(results):
    return {result.name: result for result in results}


def test_tokenizer_without_loss_is_measured_as_such():
    evaluator = TokenizerEvaluator(Pixels(), scorer_named("digits"))
    results = by_name(evaluator.evaluate(trained(averaged=False)))
    assert results["psnr_uint8"].value > 60 or np.isinf(results["psnr_uint8"].value)
    assert results["ssim_gauss7_uint8"].value == pytest.approx(1)
    scored = results["reconstruction_class_accuracy_digits_svc"]
    assert scored.value == pytest.approx(scored.protocol["scorer_accuracy_on_real"], abs=1e-6)
    assert scored.protocol["images"] == 297  # padding of the last batch does not count
    assert all(r.protocol["weights"] == "raw" and r.protocol["split"] == "eval" for r in results.values())
    figures = evaluator.figures(trained())
    assert sorted(figures) == ["codes", "reconstructions"]
    assert all(hasattr(figure, "savefig") for figure in figures.values())


@dataclasses.dataclass(frozen=True)
class Values(ImageSystem):
    """Pixels as continuous latents, shifted by a frozen offset."""

    space: None = None

    def encode_images(self, variables, images):
        return Latents(values=images.reshape(len(images), -1, 1) - variables["teacher"]["shift"])

    def decode_images(self, variables, latents, size=None):
        return (latents.values + variables["teacher"]["shift"]).reshape(-1, 8, 8, 1) / 127.5 - 1


def test_continuous_latents_are_measured_without_codes_and_frozen_stages_are_handed_on():
    evaluator = TokenizerEvaluator(Values(), frozen=("teacher",))
    there = dataclasses.replace(trained(), frozen={"teacher": {"shift": jnp.float32(3.0)}})
    results = by_name(evaluator.evaluate(there))
    assert sorted(results) == ["psnr_uint8", "ssim_gauss7_uint8"]
    assert results["ssim_gauss7_uint8"].value == pytest.approx(1)
    assert sorted(evaluator.figures(there)) == ["reconstructions"]


def test_large_evaluations_are_cut(monkeypatch):
    monkeypatch.setattr(image_views, "LARGEST_EVALUATION", 100)
    seen = []

    def scorer(images, labels, captions):
        seen.append((len(images), len(labels), len(captions)))
        return [Result("x", 1.0)]

    TokenizerEvaluator(Pixels(), scorer).evaluate(trained())
    assert seen == [(128, 128, 128)]


def test_samples_are_scored_for_each_guidance(examples):
    evaluator = SampleEvaluator(Pixels(), DATA, scorer_named("digits"), 10, 13, Recaller(), HeldOut())
    results = by_name(evaluator.evaluate(trained(examples)))
    good, bad = (results[f"sample_class_accuracy_digits_svc_w{w}"] for w in (3, 0))
    assert good.value >= 0.9 > 0.4 > bad.value
    assert good.protocol["images"] == 130 and good.protocol["guidance"] == 3.0
    assert good.protocol["captions"] == 10 and good.protocol["per_caption"] == 13
    assert good.protocol["prior"] == "memory" and good.protocol["weights"] == "average"
    assert results["samples_per_second_w3"].value > 0
    assert results["samples_per_second_w3"].protocol["batch"] == 64
    labels = [DATA.open("eval")[number]["label"] for number in range(256)]  # whole batches only
    assert results["nll_nats_per_slot"].value == pytest.approx(np.mean(labels), rel=1e-5)
    assert results["nll_nats_per_slot"].protocol["images"] == 256
    assert sorted(evaluator.figures(trained(examples))) == ["samples_w0", "samples_w3"]


def test_samples_do_not_depend_on_the_size_of_the_batches(examples):
    asked = {"label": np.arange(70, dtype=np.int32) % 10}
    drawn = []
    for size in (16, 64, 128):
        evaluator = SampleEvaluator(Pixels(), dataclasses.replace(DATA, batch_size=size), sampler=Recaller())
        drawn.append(evaluator._draw(trained(examples), asked, 70, Recaller(), 0.0, timed=False))
    assert all(images.shape == (70, 8, 8, 1) and speed == 0 for images, speed in drawn)
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][0], drawn[2][0])
    assert len({image.tobytes() for image in drawn[0][0]}) == 70


def test_other_ways_of_drawing_have_names(examples):
    others = (("other", Recaller(guidances=(0.0,))),)
    plain = Recaller(guidances=(3.0,))
    evaluator = SampleEvaluator(Pixels(), DATA, scorer_named("digits"), 10, 2, plain, others=others)
    results, name = by_name(evaluator.evaluate(trained(examples))), "sample_class_accuracy_digits_svc"
    assert sorted(results) == [name, f"{name}_other", "samples_per_second", "samples_per_second_other"]
    assert results[name].value > results[f"{name}_other"].value
    assert results[f"{name}_other"].protocol["guidance"] == 0.0


def test_an_evaluator_without_sampler_or_scorer(examples):
    with pytest.raises(ValueError, match="this evaluator has no sampler"):
        SampleEvaluator(Pixels(), DATA).evaluate(trained())
    results = SampleEvaluator(Pixels(), DATA, None, 2, 3, Recaller(guidances=(0.0,))).evaluate(
        trained(examples)
    )
    assert [result.name for result in results] == ["samples_per_second"]


def test_captions_are_different_ones_in_the_order_of_labels(monkeypatch):
    evaluator = SampleEvaluator(Pixels(), DATA)
    captions, asked = evaluator._requests(10)
    assert captions[7] == "a handwritten seven" and asked["label"].tolist() == list(range(10))
    assert sorted(asked) == ["label", "text", "text_mask"]
    assert len(evaluator._requests(4)[0]) == 4 and len(evaluator._requests(50)[0]) == 10

    class Damaged:
        classes = ()

        def __len__(self):
            return 3

        def __getitem__(self, number):
            if number == 0:
                raise BadRecord("0", "cut short")
            image = np.zeros((8, 8, 1), np.uint8)
            return {"caption": f"c{number}", "label": 5 - number, "image": image}

    monkeypatch.setattr(Digits, "open", lambda data, split: Damaged())
    captions, asked = evaluator._requests(10)
    assert captions == ["c2", "c1"] and asked["label"].tolist() == [3, 4]


def test_samplers_describe_themselves():
    for name in SMALL.priors:
        sampler = PriorSampler(SMALL.prior_named(name), SMALL.condition)
        assert sampler.guidances == (3.0, 0.0) and sampler.description["settings"]["guidance"] == 3.0
        assert hash(sampler) == hash(PriorSampler(SMALL.prior_named(name), SMALL.condition))
        plain = dataclasses.replace(SMALL, **{f"{name}_settings": _without_guidance(SMALL, name)})
        assert PriorSampler(plain.prior_named(name), plain.condition).guidances == (0.0,)
    assert IndependentSampler(SPACE).guidances == (0.0,)


def test_a_sampler_of_classes_is_conditioned_on_labels():
    model, shapes = TiTok.tiny(), []
    prior = model.prior_named("autoregressive")

    def condition(batch, frozen):
        shapes.append(batch["label"].shape)
        return model.condition(batch, frozen)

    sampler = PriorSampler(prior, condition)
    variables = model.shapes_of("autoregressive")
    draw = lambda v, labels: sampler(v, {}, {"label": labels}, jax.random.split(jax.random.key(0), 3), 0.0)
    drawn = jax.eval_shape(draw, variables, jnp.arange(3))
    assert shapes == [(3,)] and drawn.codes.shape == (3, model.tokens, 1)


def _without_guidance(model, name):
    return dataclasses.replace(getattr(model, f"{name}_settings"), guidance=0.0)


def test_scorers_by_name():
    assert scorer_named("none") is None
    source = Shapes(image_sizes=(32,), channels=3).open("eval")
    records = [source[number] for number in range(4)]
    images = np.stack([record["image"] for record in records])
    captions = [record["caption"] for record in records]
    results = scorer_named("shapes")(images, np.zeros(4, np.int32), captions)
    assert any(result.value == 1 for result in results)


def test_other_captions_are_those_of_the_next_row():
    @dataclasses.dataclass(frozen=True)
    class Echo:
        guidances, description = (2.0, 0.0), {"prior": "echo"}

        def __call__(self, variables, frozen, batch, key, guidance):
            labels = batch["label"]
            return Latents(codes=batch["text"], mask=batch["text_mask"], positions=(labels, guidance))

    other, rows, key = OtherCaptions(Echo()), jnp.arange(3), jax.random.key(0)
    asked = {"text": rows[:, None], "text_mask": rows[:, None] > 0, "label": rows}
    latents = other({}, {}, asked, key, 2.0)
    labels, guidance = latents.positions
    np.testing.assert_array_equal(latents.codes, [[1], [2], [0]])
    np.testing.assert_array_equal(latents.mask, [[True], [True], [False]])
    np.testing.assert_array_equal(labels, [1, 2, 0])
    assert guidance == 2.0 and other.guidances == (2.0, 0.0) and other.description["prior"] == "echo"
