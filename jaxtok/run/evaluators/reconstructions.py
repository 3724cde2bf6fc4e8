"""How stages of tokenizers of images are measured and drawn: by reconstructions and codes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxtok.codes import CodeSpace, Latents
from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.evaluate.images import ReconstructionMeter
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect import plot_bit_usage, plot_code_usage, reconstruction_grid
from jaxtok.nn.byte_text import byte_string
from jaxtok.nn.images import to_uint8
from jaxtok.run.evaluators.scorers import Scorer
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import Trained

LARGEST_EVALUATION = 4096  # images; larger evaluation splits are cut, and the results say how many they used


@runtime_checkable
class ImageModel(Protocol):
    """What an evaluator of an image system needs."""

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
class TokenizerEvaluator:
    """Measures and draws a tokenizer.

    Attributes:
      model: the system.
      scorer: for reconstructions of labelled or captioned images, or None.
      frozen: earlier stages or networks that the model needs too; its variables are then {"own": of this
        stage, and theirs by name}.
      text: `(batch, frozen) -> text` for a model whose `decode` takes one.
    """

    model: ImageModel
    scorer: Scorer | None = None
    frozen: tuple[str, ...] = ()
    text: Callable[..., Any] | None = None

    def evaluate(self, trained: Trained) -> list[Result]:
        """PSNR and SSIM, statistics of the codes (if there are any), and the scorer's opinion of
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
            if sum(map(len, images)) >= LARGEST_EVALUATION:
                break
        if not images:
            return []
        protocol: dict[str, Any] = {"weights": "average" if trained.averaged else "raw", "split": "eval"}
        results = [*meter.results(**protocol), *(statistics.results(**protocol) if statistics else ())]
        if self.scorer is not None:
            scored = self.scorer(np.concatenate(images), np.concatenate(labels), captions)
            results += [r.renamed(f"reconstruction_{r.name}", protocol) for r in scored]
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
            if statistics.images >= LARGEST_EVALUATION:
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


def _captions(batch: Any) -> list[str]:
    if "text" not in batch:
        return []
    return [byte_string(row) for row, keep in zip(batch["text"], batch["mask"], strict=True) if keep]
