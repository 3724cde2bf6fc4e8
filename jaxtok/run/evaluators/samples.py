"""How stages of priors are measured and drawn: by decoded samples, and by likelihood."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtok import keys as random
from jaxtok.data.dataset import Dataset
from jaxtok.data.errors import BadRecord
from jaxtok.evaluate.protocol import Result
from jaxtok.run.evaluators.reconstructions import LARGEST_EVALUATION, Reconstructs, modality_of
from jaxtok.run.evaluators.samplers import Sampler
from jaxtok.run.evaluators.scorers import Scorer
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import TrainedStage, abstract_batch


@dataclasses.dataclass(frozen=True)
class SampleEvaluator:
    """Measures and draws a prior by what it samples.

    Attributes:
      model: the system.
      data: where captions (and labels) to sample come from: different ones of the evaluation split.
      scorer: of the samples, or None.
      captions: how many different captions.
      per_caption: samples of each.
      sampler: draws latents.
      objective: has `held_out(variables, batch, frozen, key)`, a loss in nats per slot, and says what it is
        in `loss_name`; None leaves it out.
      others: (suffix of the results' names, sampler) of others that draw from the same prior, to compare.
      metric: like a scorer, but its results keep their own names.
    """

    model: Reconstructs
    data: Dataset
    scorer: Scorer | None = None
    captions: int = 10
    per_caption: int = 50
    sampler: Sampler | None = None
    objective: Any = None
    others: tuple[tuple[str, Sampler], ...] = ()
    metric: Scorer | None = None

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """Likelihood of held-out images, the scorer's opinion of samples with each guidance, and sampling
        speed.
        """
        sampler = self._sampler()
        protocol = {"weights": "average" if trained.averaged else "raw", **sampler.description}
        results = self._held_out(trained, protocol)
        captions, asked = self._requests(self.captions)
        captions = captions * self.per_caption
        asked = {name: np.tile(x, (self.per_caption, *[1] * (x.ndim - 1))) for name, x in asked.items()}
        labels = asked.get("label", np.full(len(captions), -1, np.int32))
        samplers = [
            (f"_w{guidance:g}" if len(sampler.guidances) > 1 else "", sampler, guidance)
            for guidance in sampler.guidances
        ]
        samplers += [(f"_{name}", other, other.guidances[0]) for name, other in self.others]
        for suffix, drawer, guidance in samplers:
            images, speed = self._draw(trained, asked, len(captions), drawer, guidance, timed=True)
            shared = {
                **protocol,
                **drawer.description,
                "guidance": guidance,
                "captions": self.captions,
                "per_caption": self.per_caption,
            }
            scored = self.scorer(images, labels, captions) if self.scorer is not None else []
            results += [result.renamed(f"sample_{result.name}{suffix}", shared) for result in scored]
            measured = self.metric(images, labels, captions) if self.metric is not None else []
            results += [result.renamed(f"{result.name}{suffix}", shared) for result in measured]
            timing = {
                **shared,
                "batch": self.data.batch_size,
                "device": jax.devices()[0].device_kind,
                "timed": "fastest call after the first",
            }
            results.append(Result(f"samples_per_second{suffix}", speed, timing))
        return results

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """Samples of up to ten captions, eight of each if so many are measured, with each guidance."""
        captions, asked = self._requests(min(self.captions, 10))
        each, sampler = min(8, self.per_caption), self._sampler()
        repeated = {name: np.repeat(x, each, axis=0) for name, x in asked.items()}
        guidances, figures = sampler.guidances, {}
        for guidance in guidances:
            images, _ = self._draw(trained, repeated, each * len(captions), sampler, guidance, timed=False)
            several = len(guidances) > 1
            figures[f"samples_w{guidance:g}" if several else "samples"] = modality_of(self.model).samples(
                images, captions, each, f"guidance {guidance:g}" if several else ""
            )
        return figures

    def program(self) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
        """The compiled call that draws one batch with the recommended guidance, and the shapes of what it
        takes after `variables` and `frozen`.
        """
        sampler, size = self._sampler(), self.data.batch_size
        asked = {
            name: shape
            for name, shape in abstract_batch(self.data).items()
            if name != modality_of(self.model).key
        }
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
        return _drawer(self.model, sampler, sampler.guidances[0]), (asked, keys)

    def _sampler(self) -> Sampler:
        if self.sampler is None:
            raise ValueError(
                "this evaluator has no sampler; set one with dataclasses.replace(evaluator, sampler=...)"
            )
        return self.sampler

    def _requests(self, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
        """The first different captions of the evaluation split (or labels, or records, where there are none),
        by label; and what the examples say beside the signal, [count, ...].
        """
        found: dict[str, dict[str, Any]] = {}
        source = self.data.open("eval")
        for number in range(min(len(source), 100 * count)):
            try:
                record = source[number]
            except BadRecord:
                continue  # the pipeline counts and names it
            name = _name_of(record, source.classes)
            found.setdefault(name, record)
            if len(found) == count:
                break
        captions = sorted(found, key=lambda caption: found[caption].get("label", -1))
        examples = [self.data.example(found[caption], 0, None) for caption in captions]
        batch = self.data.collate(examples) if examples else {}
        key = modality_of(self.model).key
        return captions, {name: x for name, x in batch.items() if name not in (key, f"{key}_mask")}

    def _draw(
        self,
        trained: TrainedStage,
        asked: Mapping[str, np.ndarray],
        count: int,
        sampler: Sampler,
        guidance: float,
        timed: bool,
    ) -> tuple[np.ndarray, float]:
        """What users see of samples, drawn in batches of the training's size, and how many a second if it is
        `timed`: by the fastest of all calls but the first, which compiles.
        """
        draw = _drawer(self.model, sampler, guidance)
        size = self.data.batch_size
        rows = np.arange(-(-count // size) * size) % count  # the last batch is filled up
        keys = random.example_keys(trained.key, len(rows))
        frozen, drawn, seconds = dict(trained.frozen), [], []
        parts = [slice(first, first + size) for first in range(0, len(rows), size)]
        if timed and len(parts) == 1:
            parts *= 2  # the first call compiles
        for part in parts:
            own = {name: array[rows[part]] for name, array in asked.items()}
            start = time.perf_counter()
            found = draw(trained.variables, frozen, own, keys[part])
            drawn.append(to_host(jax.block_until_ready(found)))
            seconds.append(time.perf_counter() - start)
        speed = size / min(seconds[1:]) if timed else 0.0
        return np.concatenate(drawn)[:count], speed

    def _held_out(self, trained: TrainedStage, protocol: dict[str, Any]) -> list[Result]:
        if self.objective is None:
            return []
        held_out = jax.jit(self.objective.held_out)
        total = count = 0
        for number, batch in enumerate(trained.batches()):
            if not batch["valid"].all() or count >= LARGEST_EVALUATION:
                break  # the loss is a mean over the batch: padding rows cannot be taken out of it
            arrays = {name: value for name, value in batch.items() if name not in ("index", "valid")}
            key = jax.random.fold_in(trained.key, number)
            value = held_out(trained.variables, arrays, dict(trained.frozen), key)
            total, count = total + float(value) * len(batch["valid"]), count + len(batch["valid"])
        name = f"{self.objective.loss_name}_nats_per_slot"
        return [Result(name, total / count, {**protocol, "images": count, "split": "eval"})] if count else []


def _name_of(record: Mapping[str, Any], classes: tuple[str, ...]) -> str:
    """What a record is sampled for: its caption, or else its class, or itself."""
    if "caption" in record:
        return record["caption"]
    label = record.get("label")
    if label is None:
        return record["key"]
    return classes[label] if 0 <= label < len(classes) else str(label)


# Kept, so that an evaluation, its figures and the next evaluation share the compiled function.
@functools.lru_cache(maxsize=8)
def _drawer(model: Reconstructs, sampler: Sampler, guidance: float) -> Callable[..., jax.Array]:
    """(variables, frozen, what is asked for, keys) -> what users see."""
    modality = modality_of(model)

    @jax.jit
    def draw(variables, frozen, asked, keys):
        latents = sampler(variables, frozen, asked, keys, guidance)
        decoded = model.decode(frozen.get("tokenizer"), latents, batch=asked, frozen=frozen)
        return modality.to_user(decoded[modality.key])

    return draw
