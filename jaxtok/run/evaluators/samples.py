"""How stages of priors are measured and drawn: by samples, decoded to images."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxtok import keys as random
from jaxtok.data.config import Data
from jaxtok.data.errors import BadRecord
from jaxtok.data.sources import open_source
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect import sample_grid
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.nn.images import to_uint8
from jaxtok.run.evaluators.reconstructions import LARGEST_EVALUATION, ImageModel
from jaxtok.run.evaluators.samplers import Sampler
from jaxtok.run.evaluators.scorers import Scorer
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import Trained


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
      text: `(ids, mask, frozen) -> text` of captions for a model whose `decode` takes one.
    """

    model: ImageModel
    data: Data
    scorer: Scorer | None = None
    captions: int = 10
    per_caption: int = 50
    sampler: Sampler | None = None
    objective: Any = None
    others: tuple[tuple[str, Sampler], ...] = ()
    metric: Scorer | None = None
    text: Callable[..., Any] | None = None

    def evaluate(self, trained: Trained) -> list[Result]:
        """Likelihood of held-out images, the scorer's opinion of samples with each guidance, and sampling
        speed.
        """
        sampler = self._sampler()
        protocol = {"weights": "average" if trained.averaged else "raw", **sampler.description}
        results = self._held_out(trained, protocol)
        captions, labels = self._captions(self.captions)
        captions, labels = captions * self.per_caption, np.tile(labels, self.per_caption)
        samplers = [
            (f"_w{guidance:g}" if len(sampler.guidances) > 1 else "", sampler, guidance)
            for guidance in sampler.guidances
        ]
        samplers += [(f"_{name}", other, other.guidances[0]) for name, other in self.others]
        for suffix, drawer, guidance in samplers:
            images, speed = self._draw(trained, captions, labels, drawer, guidance, timed=True)
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
            raise ValueError(
                "this evaluator has no sampler; set one with dataclasses.replace(evaluator, sampler=...)"
            )
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
            if not batch["mask"].all() or count >= LARGEST_EVALUATION:
                break  # the loss is a mean over the batch: padding rows cannot be taken out of it
            arrays = {name: value for name, value in batch.items() if name not in ("index", "mask")}
            key = jax.random.fold_in(trained.key, number)
            value = held_out(trained.variables, arrays, dict(trained.frozen), key)
            total, count = total + float(value) * len(batch["mask"]), count + len(batch["mask"])
        name = f"{self.objective.loss_name}_nats_per_slot"
        return [Result(name, total / count, {**protocol, "images": count, "split": "eval"})] if count else []


# Kept, so that an evaluation, its figures and the next evaluation share the compiled function.
@functools.lru_cache(maxsize=8)
def _drawer(
    model: ImageModel, sampler: Sampler, guidance: float, text: Callable[..., Any] | None = None
) -> Callable[..., jax.Array]:
    """(variables, frozen, ids, mask, labels, keys) -> uint8 images."""

    @jax.jit
    def draw(variables, frozen, ids, mask, labels, keys):
        latents = sampler(variables, frozen, ids, mask, labels, keys, guidance)
        told: dict[str, Any] = {} if text is None else {"text": text(ids, mask, frozen)}
        return to_uint8(model.decode(frozen["tokenizer"], latents, **told))

    return draw
