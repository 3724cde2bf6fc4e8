"""What `evaluate` says about latents on request: single slots, codes as a language, labels by a linear probe,
what a prior makes of their rate, and whether a CLIP model sees captions in the images.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxtok.data.dataset import Dataset
from jaxtok.data.pipeline import Pipeline
from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.evaluate.protocol import Result
from jaxtok.evaluate.rates import entropy_coded_rates, nominal_rates
from jaxtok.evaluate.streaming import first_images
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator, read_arrays
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import TrainedStage


@dataclasses.dataclass(frozen=True)
class LatentOptions:
    """Measures of latents beside those that an experiment has.

    Attributes:
      slots: usage, perplexity, dead codes and entropy of every slot by itself, on held-out images.
      language: statistics of held-out codes as a language, with their controls.
      probes: labels from latents by a linear map, trained on the training split and scored on the other.
      rates: bits per token and pixel, nominal and of an entropy coder that uses a prior.
      clip: local folder of a CLIP model in Hugging Face format, which scores images against their captions.
      images: how many images of a split at most.
    """

    slots: bool = False
    language: bool = False
    probes: bool = False
    rates: bool = False
    clip: str = ""
    images: int = 4096


_MEASURES = ("slots", "language", "probes", "rates", "clip")
_NEEDS = "slots, language: a tokenizer of codes; rates: that or a likelihood; probes: labels; clip: captions"


class LatentMeasures:
    """Measures as the options say.

    Args:
      options: which.

    Raises:
      ValueError: no images to measure.
      FileNotFoundError: no CLIP model in that folder.
    """

    def __init__(self, options: LatentOptions):
        if options.images < 1:
            raise ValueError(f"images={options.images}: measures of latents need at least one image")
        self.options, self._scorer = options, None
        self._served: set[str] = set()
        if options.clip:
            from jaxtok.evaluate.clip_score import ClipScorer

            self._scorer = ClipScorer(options.clip)

    def scored(self, evaluator: Any) -> Any:
        """The same evaluator, with CLIP as one more scorer of its images."""
        if self._scorer is None or not isinstance(evaluator, TokenizerEvaluator | SampleEvaluator):
            return evaluator
        own, clip = evaluator.scorer, self._scorer

        def scorer(images: np.ndarray, labels: np.ndarray, captions: Sequence[str]) -> list[Result]:
            scored = clip.results(captions, images) if captions else []
            self._served |= {"clip"} if scored else set()
            return [*([] if own is None else own(images, labels, captions)), *scored]

        return dataclasses.replace(evaluator, scorer=scorer)

    def check_served(self) -> None:
        """To be called when every stage was measured.

        Raises:
          ValueError: some of the options found no stage that they apply to, or no data for it.
        """
        asked = {name for name in _MEASURES if getattr(self.options, name)}
        if missing := sorted(asked - self._served):
            flags = ", ".join(f"--latents.{name}" for name in missing)
            raise ValueError(
                f"{flags} measured nothing: no stage of this run has what it needs ({_NEEDS}). The other "
                "results were written; leave it out"
            )

    def _of(self, name: str, results: Sequence[Result]) -> Sequence[Result]:
        self._served |= {name} if results else set()
        return results

    def results(
        self, evaluator: Any, trained: TrainedStage, data: Dataset, found: Sequence[Result]
    ) -> list[Result]:
        """What the options ask for of a stage.

        Args:
          evaluator: of the stage.
          trained: the stage.
          data: what it was trained on.
          found: what the evaluator has measured: the rate of a prior comes from its likelihood.
        """
        if isinstance(evaluator, SampleEvaluator):
            return list(self._of("rates", _rates(evaluator, found))) if self.options.rates else []
        if not isinstance(evaluator, TokenizerEvaluator):
            return []
        options, space = self.options, evaluator.model.space
        codes_wanted = options.slots or options.language or options.rates
        if not (options.probes or (space is not None and codes_wanted)):
            return []
        held_out = _encoded(evaluator, trained, trained.batches(), options.images)
        if held_out is None:
            return []
        latents, labels = held_out
        shared: dict[str, Any] = {"weights": "average" if trained.averaged else "raw"}
        results = []
        if space is not None and options.rates and "image" in data.fields():
            height, width = data.fields()["image"].shape[:2]
            results += self._of("rates", nominal_rates(space, latents.shape[1], height, width))
        if space is not None and options.slots:
            counts = CodeStatistics(space, latents.shape[1])
            counts.update(latents)
            results += self._of("slots", counts.slot_results(**shared, split="eval"))
        if space is not None and options.language:
            from jaxtok.evaluate.language.table import language_statistics  # SciPy is slow to import

            grid = _grid(evaluator.model, latents.shape[1])
            statistics = language_statistics(latents, space, grid=grid, **shared, split="eval")
            results += self._of("language", statistics)
        if options.probes:
            training = _encoded(
                evaluator, trained, Pipeline(data, "train").evaluation_batches(), options.images
            )
            if training is not None:
                results += self._of("probes", _probes(space, training, (latents, labels), shared))
        return results


@functools.lru_cache(maxsize=8)
def _encoder(model: Any) -> Callable[[Any, Any], jax.Array]:
    """(variables, batch) -> codes, or the values of continuous latents."""

    @jax.jit
    def encode(variables, batch):
        latents = model.encode(variables, batch)
        return latents.values if latents.codes is None else latents.codes

    return encode


def _encoded(
    evaluator: TokenizerEvaluator, trained: TrainedStage, batches: Iterable[Any], images: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Latents [B, N, ...] and labels [B] of the first images; None if there are none."""
    encode, variables = _encoder(evaluator.model), evaluator.variables(trained)
    latents, labels = [], []
    for batch, kept in first_images(batches, images):
        latents.append(to_host(encode(variables, read_arrays(batch, trained)[0]))[kept])
        labels.append(np.asarray(batch["label"])[kept])
    return (np.concatenate(latents), np.concatenate(labels)) if sum(map(len, labels)) else None


def _grid(model: Any, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of tokens that lie on a grid, as models of grids say."""
    grid = getattr(model, "grid", None)
    on_grid = isinstance(grid, tuple) and len(grid) == 2 and grid[0] * grid[1] == tokens
    return (int(grid[0]), int(grid[1])) if on_grid and grid is not None else None


def _probes(
    space: Any,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    shared: dict[str, Any],
) -> list[Result]:
    """Probes of every form in which the latents can be read; none where images have no labels."""
    from jaxtok.evaluate.probes import linear_probe, probe_features  # scikit-learn is slow to import

    labels = np.concatenate([train[1], test[1]])
    if labels.min() < 0 or len(np.unique(train[1])) < 2:
        return []
    if space is None:
        forms = {"values": [latents.reshape(len(latents), -1) for latents in (train[0], test[0])]}
    else:
        kinds = ("bits",) if space.is_binary else ("one_hot", "bits")
        forms = {kind: [probe_features(part[0], space, kind) for part in (train, test)] for kind in kinds}
    results = []
    for kind, (own, other) in forms.items():
        results += linear_probe(
            own, train[1], other, test[1], name=f"probe_{kind}", trained_on="train", split="eval", **shared
        )
    return results


def _rates(evaluator: SampleEvaluator, found: Sequence[Result]) -> list[Result]:
    """Rates of a prior of which the likelihood is known."""
    likelihood = next((result for result in found if result.name == "nll_nats_per_slot"), None)
    tokens = getattr(evaluator.model, "tokens", None)
    grouping = getattr(evaluator.objective, "grouping", None)
    space = evaluator.model.space if grouping is None else grouping.space
    if likelihood is None or space is None or not isinstance(tokens, int) or likelihood.value < 0:
        return []
    if "image" not in evaluator.data.fields():
        return []
    height, width = evaluator.data.fields()["image"].shape[:2]
    shared = {key: value for key, value in likelihood.protocol.items() if key != "size"}
    return entropy_coded_rates(likelihood.value, space, tokens, height, width, **shared)
