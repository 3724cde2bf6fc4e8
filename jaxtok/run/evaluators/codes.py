"""How quantizers are measured and drawn: what they use of their alphabet, and what they lose."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import Latents
from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.evaluate.counts import dead_codes, perplexity, usage
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect import plot_code_usage, reconstruction_grid
from jaxtok.inspect.comparison import (
    QuantizerRow,
    plot_prefix_psnr,
    plot_usage_and_error,
    plot_usage_history,
)
from jaxtok.nn.images import to_float, to_uint8
from jaxtok.run.evaluators.reconstructions import ReconstructsCodes
from jaxtok.train.stage import TrainedStage


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a pass over held-out images shows of a tokenizer.

    Attributes:
      statistics: counts of the codes.
      mse: mean squared error of pixels in [-1, 1] (reconstructions are clipped), float64 [Q]: entry q - 1
        with the first q slots of every token, the last one with all of them.
      originals: some images, uint8.
      restored: the same after reconstruction.
    """

    statistics: CodeStatistics
    mse: np.ndarray
    originals: np.ndarray
    restored: np.ndarray

    @property
    def psnr(self) -> np.ndarray:
        """Of the mean squared error over all images, dB [Q]."""
        return 10 * np.log10(4 / np.maximum(self.mse, 1e-10))

    @property
    def tokens(self) -> int:
        """How many tokens were counted."""
        return self.statistics.images * self.statistics.tokens

    @property
    def counts(self) -> np.ndarray:
        """Occurrences of each code, int64 [Q, K]; the slots have alphabets of one size."""
        slots = range(self.statistics.space.slots)
        return np.stack([self.statistics.slot_counts(slot) for slot in slots])


def even_usage(codes: int, tokens: int) -> float:
    """The usage that is expected of `tokens` tokens if every code were equally likely: 1 - (1 - 1/K)^M.

    More than this can only be seen if tokens avoid the codes of others; it is the practical upper bound.
    """
    return 1 - (1 - 1 / codes) ** tokens


def measure_codes(model: ReconstructsCodes, trained: TrainedStage, variables: Any, images: int) -> Measured:
    """One pass over the first `images` held-out images.

    Raises:
      ValueError: the evaluation split is empty.
    """
    restore, statistics = _prefix_restorer(model), None
    squares, count, shown = np.zeros(model.space.slots), 0, None
    for batch in trained.batches():
        codes, errors, restored = jax.device_get(restore(variables, {"image": batch["image"]}))
        kept = batch["valid"] & (count + np.cumsum(batch["valid"]) <= images)
        if statistics is None:
            statistics = CodeStatistics(model.space, codes.shape[1])
            shown = batch["image"][kept][:20], restored[kept][:20]
        statistics.update(codes, kept)
        squares, count = squares + errors[:, kept].sum(axis=1, dtype=np.float64), count + int(kept.sum())
        if count >= images:
            break
    if statistics is None or shown is None:
        raise ValueError("the evaluation split has no images to measure")
    return Measured(statistics, squares / count, *shown)


@functools.lru_cache(maxsize=32)
def _prefix_restorer(model: ReconstructsCodes) -> Callable[..., Any]:
    """(variables, batch) -> codes, squared errors [Q, B] of each number of slots, uint8 images of all."""

    @jax.jit
    def restore(variables, batch):
        codes, images = model.encode(variables, batch).codes, batch["image"]
        prefixes = [codes[..., :slots] for slots in range(1, model.space.slots + 1)]
        restored = [
            jnp.clip(model.decode(variables, Latents(codes=prefix), batch=batch)["image"], -1, 1)
            for prefix in prefixes
        ]
        errors = [jnp.mean(jnp.square(x - to_float(images)), axis=(1, 2, 3)) for x in restored]
        return codes, jnp.stack(errors), to_uint8(restored[-1])

    return restore


@dataclasses.dataclass(frozen=True)
class CodeEvaluator:
    """Measures and draws one quantizer inside its autoencoder.

    Attributes:
      model: the autoencoder. One code per token is measured as a whole; several slots, such as the depths of
        a residual stack, are averaged, and every number of them is decoded.
      images: how many held-out images.
    """

    model: ReconstructsCodes
    images: int

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """Usage, perplexity and dead codes, MSE, PSNR; with several slots the PSNR of every prefix."""
        found = measure_codes(self.model, trained, trained.variables, self.images)
        counts, slots = found.counts, self.model.space.slots
        protocol = {
            "images": found.statistics.images,
            "tokens": found.tokens,
            "codes": counts.shape[-1],
            "usage_of_even_codes": even_usage(counts.shape[-1], found.tokens),
            "weights": "average" if trained.averaged else "raw",
            "split": "eval",
        }
        pixels = {**protocol, "pixels": "float in [-1, 1], clipped", "average": "of squares over all images"}
        results = [
            Result("code_usage", float(usage(counts).mean()), protocol),
            Result("code_perplexity", float(perplexity(counts).mean()), protocol),
            Result("dead_codes", int(dead_codes(counts).sum()), protocol),
            Result("mse", found.mse[-1], pixels),
            Result("psnr", found.psnr[-1], pixels),
        ]
        if slots > 1:
            results += [
                Result(f"psnr_prefix_{i + 1}", value, pixels | {"slots": i + 1})
                for i, value in enumerate(found.psnr)
            ]
        return results

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """Reconstructions, and the codes by frequency."""
        found = measure_codes(self.model, trained, trained.variables, min(self.images, 64))
        grid = reconstruction_grid(found.originals, found.restored, title="held-out images")
        return {"reconstructions": grid, "codes": plot_code_usage(found.statistics, title="held-out tokens")}


@dataclasses.dataclass(frozen=True)
class ComparisonEvaluator:
    """Measures many quantizers on data they were trained on, and draws them side by side.

    Attributes:
      models: name of a stage -> its autoencoder, one code per token; in the order of the figures.
      stacks: the same for residual stacks.
      images: how many held-out images.
      window_tokens: tokens in a window of the history that `jaxtok.systems.usage_history` keeps.
      threshold: usage that a hypothesis names, drawn as a line.
    """

    models: tuple[tuple[str, ReconstructsCodes], ...]
    stacks: tuple[tuple[str, ReconstructsCodes], ...]
    images: int
    window_tokens: int
    threshold: float | None = None

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """Usage and perplexity on training data, of all quantizers."""
        results = []
        for name, counts in self._training_counts(trained).items():
            tokens, codes = int(counts.sum(axis=-1).max()), counts.shape[-1]
            protocol = {
                "tokens": tokens,
                "codes": codes,
                "usage_of_even_codes": even_usage(codes, tokens),
                "split": "train",
            }
            results.append(Result(f"training_usage_{name}", float(usage(counts).mean()), protocol))
            results.append(Result(f"training_perplexity_{name}", float(perplexity(counts).mean()), protocol))
        return results

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """Usage and perplexity over training, usage and error at its end, PSNR of residual prefixes."""
        on_training, rows, histories = self._training_counts(trained), {}, {}
        for name, model in self.models:
            found = measure_codes(model, trained, trained.frozen[name], self.images)
            rows[name] = QuantizerRow(
                usage=float(usage(found.counts).mean()),
                training_usage=float(usage(on_training[name]).mean()),
                mse=float(found.mse[-1]),
            )
            history = jax.device_get(trained.frozen[name]["history"])
            histories[name] = history["usage"], history["perplexity"]
        codes = self.models[0][1].space.size
        prefixes = {
            name: measure_codes(model, trained, trained.frozen[name], self.images).psnr
            for name, model in self.stacks
        }
        return {
            "usage_over_training": plot_usage_history(histories, codes, self.window_tokens),
            "usage_and_error": plot_usage_and_error(rows, codes, threshold=self.threshold),
            **({"prefixes": plot_prefix_psnr(prefixes)} if prefixes else {}),
        }

    def _training_counts(self, trained: TrainedStage) -> Mapping[str, np.ndarray]:
        return {
            name: np.round(counts).astype(np.int64)
            for name, counts in jax.device_get(trained.variables["params"]).items()
        }
