"""How stages of image systems are measured and drawn: reconstructions of tokenizers, samples of priors."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.data.config import Data
from jaxtok.data.errors import BadRecord
from jaxtok.data.sources import open_source
from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.evaluate.images import ReconstructionMeter
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect import plot_bit_usage, plot_code_usage, reconstruction_grid, sample_grid
from jaxtok.nn.byte_text import byte_string
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.nn.images import to_uint8
from jaxtok.priors.contract import Codec, Prior
from jaxtok.priors.independent import sample_independent
from jaxtok.train.config import to_json
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import Trained

# Judges say whether images show what they should: (uint8 images, labels, captions) -> results.
Judge = Callable[[np.ndarray, np.ndarray, Sequence[str]], list[Result]]

_LARGEST_EVALUATION = 4096  # images; larger evaluation splits are cut, and the results say how many they used


@runtime_checkable
class ImageModel(Protocol):
    """What an image system offers to be looked at."""

    @property
    def space(self) -> CodeSpace | None:
        """Alphabet of a token; None for continuous latents."""
        ...

    def encode(self, variables: Any, images: jax.Array) -> Latents:
        """Images to codes."""
        ...

    def decode(
        self, variables: Any, latents: Latents | jax.Array, size: tuple[int, int] | None = None
    ) -> jax.Array:
        """Codes to float images."""
        ...


@runtime_checkable
class DiscreteImageModel(ImageModel, Protocol):
    """An image system whose latents are codes."""

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenizerView:
    """Measures and draws a tokenizer.

    Attributes:
      model: the system.
      judge: for reconstructions of labelled or captioned images, or None.
      frozen: earlier stages or networks that the model needs too; its variables are then {"own": of this
        stage, and theirs by name}.
      text: `(batch, frozen) -> text` for a model whose `decode` takes one.
    """

    model: ImageModel
    judge: Judge | None = None
    frozen: tuple[str, ...] = ()
    text: Callable[..., Any] | None = None

    def evaluate(self, trained: Trained) -> list[Result]:
        """PSNR and SSIM, statistics of the codes (if there are any), and the judge's opinion of
        reconstructions, over the evaluation split.
        """
        reconstruct, variables, space = reconstructor(self.model), self.variables(trained), self.model.space
        meter, statistics = ReconstructionMeter(), None
        images, labels, captions = [], [], []
        for batch in trained.batches():
            codes, restored = to_host(reconstruct(variables, batch["image"], self.told(batch, trained)))
            meter.update(batch["image"], restored, batch["mask"])
            if space is not None:
                statistics = statistics or CodeStatistics(space, codes.shape[1])
                statistics.update(codes, batch["mask"])
            images.append(restored[batch["mask"]])
            labels.append(batch["label"][batch["mask"]])
            captions += _captions(batch)
            if sum(map(len, images)) >= _LARGEST_EVALUATION:
                break
        if not images:
            return []
        protocol: dict[str, Any] = {"weights": "average" if trained.averaged else "raw", "split": "eval"}
        results = [*meter.results(**protocol), *(statistics.results(**protocol) if statistics else ())]
        if self.judge is not None:
            judged = self.judge(np.concatenate(images), np.concatenate(labels), captions)
            results += [_renamed(r, f"reconstruction_{r.name}", protocol) for r in judged]
        return results

    def figures(self, trained: Trained) -> dict[str, Any]:
        """A grid of reconstructions and how the codes (if there are any) are used."""
        reconstruct, variables, space = reconstructor(self.model), self.variables(trained), self.model.space
        statistics, figures = None, {}
        for batch in trained.batches():
            codes, restored = to_host(reconstruct(variables, batch["image"], self.told(batch, trained)))
            if not figures:
                count = min(20, int(batch["mask"].sum()))
                pairs = batch["image"][:count], restored[:count]
                figures["reconstructions"] = reconstruction_grid(*pairs, title="held-out images")
            if space is None:
                break
            statistics = statistics or CodeStatistics(space, codes.shape[1])
            statistics.update(codes, batch["mask"])
            if statistics.images >= _LARGEST_EVALUATION:
                break
        if space is not None and statistics is not None:
            usage = plot_bit_usage if space.is_binary else plot_code_usage
            figures["codes"] = usage(statistics, title="codes of held-out images")
        return figures

    def told(self, batch: Any, trained: Trained) -> Any:
        """Text of a batch for a decoder that reads some, or None."""
        return None if self.text is None else self.text(batch, trained.frozen)

    def variables(self, trained: Trained) -> Any:
        """What `encode` and `decode` of the model take."""
        if not self.frozen:
            return trained.variables
        return {"own": trained.variables, **{name: trained.frozen[name] for name in self.frozen}}


# Compiled functions are kept, so that an evaluation, its figures and the next evaluation share them.


@functools.lru_cache(maxsize=8)
def reconstructor(model: ImageModel) -> Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]:
    """(tokenizer variables, images, text or None) -> codes (None of continuous latents) and uint8 images."""

    @jax.jit
    def reconstruct(variables, images, text):
        latents, size = model.encode(variables, images), (images.shape[1], images.shape[2])
        shown = latents if latents.codes is None else latents.codes
        told: dict[str, Any] = {} if text is None else {"text": text}
        return latents.codes, to_uint8(model.decode(variables, shown, size, **told))

    return reconstruct


@functools.lru_cache(maxsize=8)
def _drawer(
    model: ImageModel, sampler: "Sampler", guidance: float, text: Callable[..., Any] | None = None
) -> Callable[..., jax.Array]:
    """(variables, frozen, ids, mask, labels, keys) -> uint8 images."""

    @jax.jit
    def draw(variables, frozen, ids, mask, labels, keys):
        latents = sampler(variables, frozen, ids, mask, labels, keys, guidance)
        told: dict[str, Any] = {} if text is None else {"text": text(ids, mask, frozen)}
        return to_uint8(model.decode(frozen["tokenizer"], latents, **told))

    return draw


@runtime_checkable
class Sampler(Protocol):
    """Draws latents for `SampleView`; hashable."""

    @property
    def guidances(self) -> tuple[float, ...]:
        """Strengths to compare, the recommended one first; (0,) where there is no guidance."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Settings, for the protocol."""
        ...

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        ids: jax.Array,
        mask: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Draws latents; pure.

        Args:
          variables: of this stage.
          frozen: variables of earlier stages and frozen networks, by name.
          ids, mask: captions, int32 and bool [B, T].
          labels: int32 [B].
          key: scalar key.
          guidance: static strength, one of `guidances`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class PriorSampler:
    """`Sampler` of a prior with its recommended settings, and without guidance.

    Attributes:
      prior: the prior.
      condition: (ids, mask, frozen) -> condition, or (labels) -> condition of a prior of classes.
      classes: whether it is one of classes.
      codec: `(frozen variables of the tokenizer) -> Codec`, for priors that need one.
    """

    prior: Prior
    condition: Callable[..., Condition | None]
    classes: bool = False
    codec: Callable[[Any], Codec] | None = None

    @property
    def guidances(self) -> tuple[float, ...]:
        """The recommended strength, and none."""
        recommended = self.prior.rule.default_settings().guidance
        return (recommended, 0.0) if recommended else (0.0,)

    @property
    def description(self) -> dict[str, Any]:
        """Rule and settings."""
        return {
            "prior": type(self.prior.rule).__name__,
            "settings": to_json(self.prior.rule.default_settings()),
        }

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        ids: jax.Array,
        mask: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Samples of captions, or of classes."""
        settings = dataclasses.replace(self.prior.rule.default_settings(), guidance=guidance)
        condition = self.condition(labels) if self.classes else self.condition(ids, mask, frozen)
        codec = None if self.codec is None else self.codec(frozen["tokenizer"])
        return self.prior.sample(
            variables["params"], condition, key, batch=labels.shape[0], settings=settings, codec=codec
        )


@dataclasses.dataclass(frozen=True)
class OtherCaptions:
    """`Sampler` that is told the caption of the next row: what the captions of others make of a picture.

    Attributes:
      sampler: what draws.
    """

    sampler: Sampler

    @property
    def guidances(self) -> tuple[float, ...]:
        """Those of the sampler."""
        return self.sampler.guidances

    @property
    def description(self) -> dict[str, Any]:
        """That of the sampler, and whose captions."""
        return {**self.sampler.description, "captions_of": "the next sample"}

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        ids: jax.Array,
        mask: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Samples of the other captions."""
        ids, mask, labels = (jax.numpy.roll(x, -1, axis=0) for x in (ids, mask, labels))
        return self.sampler(variables, frozen, ids, mask, labels, key, guidance)


@dataclasses.dataclass(frozen=True)
class IndependentSampler:
    """`Sampler` of independent slots given the class.

    Attributes:
      space: alphabet of a token.
    """

    space: CodeSpace

    @property
    def guidances(self) -> tuple[float, ...]:
        """None."""
        return (0.0,)

    @property
    def description(self) -> dict[str, Any]:
        """What it is."""
        return {"prior": "independent slots given the class"}

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        ids: jax.Array,
        mask: jax.Array,
        labels: jax.Array,
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Samples of classes."""
        del frozen, ids, mask, guidance
        return sample_independent(variables["params"]["counts"], labels, self.space, key)


@dataclasses.dataclass(frozen=True)
class SampleView:
    """Measures and draws a prior by what it samples.

    Attributes:
      model: the system.
      data: where captions (and labels) to sample come from: different ones of the evaluation split.
      judge: of the samples, or None.
      captions: how many different captions.
      per_caption: samples of each.
      sampler: draws latents.
      objective: has `held_out(variables, batch, frozen, key)`, a loss in nats per slot, and says what it is
        in `measure`; None leaves it out.
      others: (suffix of the results' names, sampler) of other ways to draw from the same prior, to compare.
      measure: like a judge, but its results keep their own names.
      text: `(ids, mask, frozen) -> text` of captions for a model whose `decode` takes one.
    """

    model: ImageModel
    data: Data
    judge: Judge | None = None
    captions: int = 10
    per_caption: int = 50
    sampler: Sampler | None = None
    objective: Any = None
    others: tuple[tuple[str, Sampler], ...] = ()
    measure: Judge | None = None
    text: Callable[..., Any] | None = None

    def evaluate(self, trained: Trained) -> list[Result]:
        """Likelihood of held-out images, the judge's opinion of samples with each guidance, and sampling
        speed.
        """
        sampler = self._sampler()
        protocol = {"weights": "average" if trained.averaged else "raw", **sampler.description}
        results = self._held_out(trained, protocol)
        captions, labels = self._captions(self.captions)
        captions, labels = captions * self.per_caption, np.tile(labels, self.per_caption)
        ways = [
            (f"_w{guidance:g}" if len(sampler.guidances) > 1 else "", sampler, guidance)
            for guidance in sampler.guidances
        ]
        ways += [(f"_{name}", other, other.guidances[0]) for name, other in self.others]
        for suffix, drawer, guidance in ways:
            images, speed = self._draw(trained, captions, labels, drawer, guidance, timed=True)
            shared = {
                **protocol,
                **drawer.description,
                "guidance": guidance,
                "captions": self.captions,
                "per_caption": self.per_caption,
            }
            judged = self.judge(images, labels, captions) if self.judge is not None else []
            results += [_renamed(result, f"sample_{result.name}{suffix}", shared) for result in judged]
            measured = self.measure(images, labels, captions) if self.measure is not None else []
            results += [_renamed(result, f"{result.name}{suffix}", shared) for result in measured]
            timing = {
                **shared,
                "batch": self.data.batch_size,
                "device": jax.devices()[0].device_kind,
                "timed": "fastest call after the first",
            }
            results.append(Result(f"samples_per_second{suffix}", speed, timing))
        return results

    def figures(self, trained: Trained) -> dict[str, Any]:
        """Samples of up to ten captions, eight of each if so many are measured, with each guidance."""
        captions, labels = self._captions(min(self.captions, 10))
        each = min(8, self.per_caption)
        repeated, sampler = [caption for caption in captions for _ in range(each)], self._sampler()
        guidances, figures = sampler.guidances, {}
        for guidance in guidances:
            images, _ = self._draw(trained, repeated, np.repeat(labels, each), sampler, guidance, timed=False)
            several = len(guidances) > 1
            figures[f"samples_w{guidance:g}" if several else "samples"] = sample_grid(
                images, captions, title=f"guidance {guidance:g}" if several else ""
            )
        return figures

    def program(self) -> tuple[Callable[..., jax.Array], tuple[jax.ShapeDtypeStruct, ...]]:
        """The compiled call that draws one batch with the recommended guidance, and the shapes of what it
        takes after `variables` and `frozen`.
        """
        sampler, size, length = self._sampler(), self.data.batch_size, max(self.data.text_length, 1)
        shapes = (
            jax.ShapeDtypeStruct((size, length), np.int32),
            jax.ShapeDtypeStruct((size, length), np.bool_),
            jax.ShapeDtypeStruct((size,), np.int32),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size)),
        )
        return _drawer(self.model, sampler, sampler.guidances[0], self.text), shapes

    def _sampler(self) -> Sampler:
        if self.sampler is None:
            raise ValueError("this view has no sampler; set one with dataclasses.replace(view, sampler=...)")
        return self.sampler

    def _captions(self, count: int) -> tuple[list[str], np.ndarray]:
        """The first different captions of the evaluation split, by label, and their labels."""
        found: dict[str, int] = {}
        source = open_source(self.data, "eval")
        for number in range(min(len(source), 100 * count)):
            try:
                record = source[number]
            except BadRecord:
                continue  # the pipeline counts and names it
            found.setdefault(record["caption"], record["label"])
            if len(found) == count:
                break
        ordered = sorted(found, key=lambda caption: found[caption])
        return ordered, np.array([found[caption] for caption in ordered], np.int32)

    def _draw(
        self,
        trained: Trained,
        captions: Sequence[str],
        labels: np.ndarray,
        sampler: Sampler,
        guidance: float,
        timed: bool,
    ) -> tuple[np.ndarray, float]:
        """uint8 images, drawn in batches of the training's size, and how many a second if it is `timed`:
        by the fastest of all calls but the first, which compiles.
        """
        draw = _drawer(self.model, sampler, guidance, self.text)
        size, count = self.data.batch_size, len(labels)
        rows = np.arange(-(-count // size) * size) % count  # the last batch is filled up
        ids, mask = caption_ids(captions, max(self.data.text_length, 1), self.data.text_model)
        keys = random.example_keys(trained.key, len(rows))
        frozen, images, seconds = dict(trained.frozen), [], []
        parts = [slice(first, first + size) for first in range(0, len(rows), size)]
        if timed and len(parts) == 1:
            parts *= 2  # the first call compiles
        for part in parts:
            own = rows[part]
            start = time.perf_counter()
            drawn = draw(trained.variables, frozen, ids[own], mask[own], labels[own], keys[part])
            images.append(to_host(jax.block_until_ready(drawn)))
            seconds.append(time.perf_counter() - start)
        speed = size / min(seconds[1:]) if timed else 0.0
        return np.concatenate(images)[:count], speed

    def _held_out(self, trained: Trained, protocol: dict[str, Any]) -> list[Result]:
        if self.objective is None:
            return []
        held_out = jax.jit(self.objective.held_out)
        total = count = 0
        for number, batch in enumerate(trained.batches()):
            if not batch["mask"].all() or count >= _LARGEST_EVALUATION:
                break  # the loss is a mean over the batch: padding rows cannot be taken out of it
            arrays = {name: value for name, value in batch.items() if name not in ("index", "mask")}
            key = jax.random.fold_in(trained.key, number)
            value = held_out(trained.variables, arrays, dict(trained.frozen), key)
            total, count = total + float(value) * len(batch["mask"]), count + len(batch["mask"])
        name = f"{self.objective.measure}_nats_per_slot"
        return [Result(name, total / count, {**protocol, "images": count, "split": "eval"})] if count else []


def judge_named(name: str) -> Judge | None:
    """The judge of a data set: "digits", "digits_frechet" (which compares distributions too), "shapes", or
    "none".
    """
    return {
        "digits": digit_accuracy,
        "digits_frechet": digit_distribution,
        "shapes": scene_accuracy,
        "none": None,
    }[name]


def digit_accuracy(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
    """The independent classifier of digits as a judge."""
    from jaxtok.evaluate.judge import digit_judge  # scikit-learn is slow to import

    del captions
    return [digit_judge().result(images, labels)]


def digit_distribution(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
    """The classifier of digits, and the Frechet distance to real ones, which sees variety too."""
    from jaxtok.evaluate.frechet import digit_frechet

    return [*digit_accuracy(images, labels, captions), digit_frechet(images)]


def scene_accuracy(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
    """Exact comparison of captioned shapes with their captions as a judge."""
    from jaxtok.evaluate.scenes import scene_results

    del labels
    return scene_results(captions, images)


def _captions(batch: Any) -> list[str]:
    if "text" not in batch:
        return []
    return [byte_string(row) for row, keep in zip(batch["text"], batch["mask"], strict=True) if keep]


def _renamed(result: Result, name: str, protocol: dict[str, Any]) -> Result:
    return Result(name, result.value, {**result.protocol, **protocol})
