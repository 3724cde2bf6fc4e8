"""A stranger: sentences of a small alphabet, and a masked diffusion prior over them without any tokenizer."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import cli
from jaxtok.codes import CodeSpace, Latents
from jaxtok.data.dataset import Dataset, Field
from jaxtok.data.records import Source
from jaxtok.modality.text import TextModality
from jaxtok.nn.masked_transformer import MaskedTransformer, masked_vocab
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked
from jaxtok.priors.masked_sampling import MaskedSettings
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.stages import prior_stage
from jaxtok.systems.base import SystemBase
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Stage

ALPHABET, LENGTH = "ab ", 8


class Sentences(Source):
    """Words of one letter."""

    def __init__(self, count: int, first: int):
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def raw(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(self.first + index)
        return {"text": "".join(letter * 3 + " " for letter in rng.choice(["a", "b"], 2)), "key": str(index)}

    def identity(self) -> Any:
        return ["sentences", self.count, self.first]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceData(Dataset):
    """Sentences, embedded."""

    def open(self, split: str) -> Source:
        return Sentences(64, 0) if split == "train" else Sentences(16, 1000)

    def fields(self) -> Mapping[str, Field]:
        return {"tokens": Field((LENGTH,), np.int32)}

    def example(self, record: Mapping[str, Any], step: int, rng: Any) -> dict[str, np.ndarray]:
        return {"tokens": np.array([ALPHABET.index(letter) for letter in record["text"]], np.int32)}


@dataclasses.dataclass(frozen=True)
class Writer(SystemBase):
    """The prior.

    Attributes:
      width: of the network.
    """

    width: int = 8
    priors = ("masked",)
    space = CodeSpace((len(ALPHABET),))
    tokens = LENGTH

    @property
    def modality(self) -> TextModality:
        return TextModality(ALPHABET)

    def shapes(self) -> dict[str, Any]:
        prior = self.prior_named("masked")
        return {"masked": {"params": jax.eval_shape(prior.init, jax.random.key(0), prior.example(), None)}}

    def encode(self, variables: Any, batch: Mapping[str, Any]) -> Latents:
        return Latents(codes=jnp.asarray(batch["tokens"])[..., None])

    def decode(self, variables: Any, latents: Latents, **reads: Any) -> dict[str, Any]:
        return {"tokens": latents.codes[..., 0]}

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        if name not in self.priors:
            return super().prior_named(name)
        network = MaskedTransformer(masked_vocab(self.space, 0), LENGTH, 1, 1, self.width, 2 * self.width)
        settings = MaskedSettings(3, guidance=0.0)
        return Prior(network, Masked(self.space, condition_dropout=0.0, settings=settings))


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what is computed."""

    data: SentenceData = SentenceData(batch_size=8)
    model: Writer = Writer()
    prior: TrainConfig = TrainConfig(steps=5, learning_rate=1e-2, warmup_steps=0, ema_decay=0.0)


def stages(config: Config) -> Iterator[Stage]:
    """The prior."""
    model, data = config.model, config.data
    look = SampleEvaluator(model, data, None, 3, 2)
    yield prior_stage("masked", model.prior_named("masked"), model, data, config.prior, look)


PRESETS = {"tiny": Config()}


def main(argv: Sequence[str]) -> None:
    """The command line."""
    cli.main("writer", PRESETS, stages, (), __doc__, argv)
