"""How stages of tokenizers are measured and drawn: by reconstructions and codes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxtok.codes import CodeSpace, Latents
from jaxtok.evaluate.codes import CodeStatistics
from jaxtok.evaluate.protocol import Result
from jaxtok.inspect import plot_bit_usage, plot_code_usage
from jaxtok.modality.contract import Modality
from jaxtok.nn.byte_text import byte_string
from jaxtok.run.evaluators.scorers import Scorer
from jaxtok.train.distributed import to_host
from jaxtok.train.stage import TrainedStage

LARGEST_EVALUATION = (
    4096  # examples; larger evaluation splits are cut, and the results say how many they used
)


@runtime_checkable
class Reconstructs(Protocol):
    """What an evaluator of reconstructions needs of a system, or of a stage of one."""

    @property
    def modality(self) -> Modality | None:
        """Kind of signal."""
        ...

    @property
    def space(self) -> CodeSpace | None:
        """Alphabet of a token; None for continuous latents."""
        ...

    def encode(self, variables: Any, batch: Mapping[str, Any]) -> Latents:
        """See `jaxtok.systems.contract.System.encode`."""
        ...

    def decode(
        self,
        variables: Any,
        latents: Latents,
        *,
        batch: Mapping[str, Any] | None = None,
        frozen: Mapping[str, Any] | None = None,
        key: Any = None,
    ) -> dict[str, Any]:
        """See `jaxtok.systems.contract.System.decode`."""
        ...


@runtime_checkable
class ReconstructsCodes(Reconstructs, Protocol):
    """The same of one whose latents are codes."""

    @property
    def space(self) -> CodeSpace:
        """Alphabet of a token."""
        ...


def modality_of(model: Reconstructs) -> Modality:
    """The kind of signal of a model that reconstructs.

    Raises:
      ValueError: it has none.
    """
    if model.modality is None:
        raise ValueError(f"{type(model).__name__} has no modality, so it reconstructs nothing")
    return model.modality


@dataclasses.dataclass(frozen=True)
class TokenizerEvaluator:
    """Measures and draws a tokenizer.

    Attributes:
      model: the system.
      scorer: for reconstructions of labelled or captioned examples, or None.
      frozen: earlier stages or networks that the model needs too; its variables are then {"own": of this
        stage, and theirs by name}.
    """

    model: Reconstructs
    scorer: Scorer | None = None
    frozen: tuple[str, ...] = ()

    def evaluate(self, trained: TrainedStage) -> list[Result]:
        """The modality's metrics, statistics of the codes (if there are any), and the scorer's of
        reconstructions, over the evaluation split.
        """
        reconstruct, variables, space = reconstructor(self.model), self.variables(trained), self.model.space
        modality = modality_of(self.model)
        meter, statistics = modality.meter(), None
        shown, labels, captions = [], [], []
        for batch in trained.batches():
            valid = batch["valid"]
            codes, restored = to_host(reconstruct(variables, *read_arrays(batch, trained)))
            lengths = [batch[f"{modality.key}_mask"]] if f"{modality.key}_mask" in batch else []
            meter.update(batch[modality.key], restored, valid, *lengths)
            if space is not None:
                statistics = statistics or CodeStatistics(space, codes.shape[1])
                statistics.update(codes, valid)
            shown.append(restored[valid])
            labels.append(batch["label"][valid] if "label" in batch else np.full(int(valid.sum()), -1))
            captions += _captions(batch)
            if sum(map(len, shown)) >= LARGEST_EVALUATION:
                break
        if not shown:
            return []
        protocol: dict[str, Any] = {"weights": "average" if trained.averaged else "raw", "split": "eval"}
        one = modality.noun.removesuffix("s")
        of_codes = statistics.results(**protocol) if statistics else []
        named = [dataclasses.replace(r, name=r.name.replace("per_image", f"per_{one}")) for r in of_codes]
        results = [*meter.results(**protocol), *named]
        if self.scorer is not None:
            scored = self.scorer(np.concatenate(shown), np.concatenate(labels), captions)
            results += [r.renamed(f"reconstruction_{r.name}", protocol) for r in scored]
        return results

    def figures(self, trained: TrainedStage) -> dict[str, Any]:
        """A figure of reconstructions and how the codes (if there are any) are used."""
        reconstruct, variables, space = reconstructor(self.model), self.variables(trained), self.model.space
        modality = modality_of(self.model)
        statistics, figures = None, {}
        for batch in trained.batches():
            codes, restored = to_host(reconstruct(variables, *read_arrays(batch, trained)))
            if not figures:
                count = min(20, int(batch["valid"].sum()))
                pairs = batch[modality.key][:count], restored[:count]
                figures["reconstructions"] = modality.reconstructions(*pairs, f"held-out {modality.noun}")
            if space is None:
                break
            statistics = statistics or CodeStatistics(space, codes.shape[1])
            statistics.update(codes, batch["valid"])
            if statistics.images >= LARGEST_EVALUATION:
                break
        if space is not None and statistics is not None:
            usage = plot_bit_usage if space.is_binary else plot_code_usage
            figures["codes"] = usage(statistics, title=f"codes of held-out {modality.noun}")
        return figures

    def variables(self, trained: TrainedStage) -> Any:
        """What `encode` and `decode` of the model take."""
        if not self.frozen:
            return trained.variables
        return {"own": trained.variables, **{name: trained.frozen[name] for name in self.frozen}}


def read_arrays(
    batch: Mapping[str, Any], trained: TrainedStage
) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """What a compiled function takes of a batch, and of frozen networks where a decoder reads captions."""
    arrays = {name: value for name, value in batch.items() if name not in ("index", "valid", "caption")}
    return arrays, dict(trained.frozen) if "text" in batch else {}


# Compiled functions are kept, so that an evaluation, its figures and the next evaluation share them.


@functools.lru_cache(maxsize=8)
def reconstructor(model: Reconstructs) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(tokenizer variables, batch, frozen) -> codes (None of continuous latents) and what users see."""
    modality = modality_of(model)

    @jax.jit
    def reconstruct(variables, batch, frozen):
        latents = model.encode(variables, batch)
        decoded = model.decode(variables, latents, batch=batch, frozen=frozen)
        return latents.codes, modality.to_user(decoded[modality.key])

    return reconstruct


def _captions(batch: Any) -> list[str]:
    if "text" not in batch:
        return []
    return [byte_string(row) for row, keep in zip(batch["text"], batch["valid"], strict=True) if keep]
