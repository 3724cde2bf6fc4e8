"""A stranger: beeps of different lengths, a streaming codec of residual codebooks, and a prior of classes."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import cli
from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.data.dataset import Dataset, Field
from jaxtok.data.records import Source
from jaxtok.modality.audio import AudioModality
from jaxtok.priors.autoregressive import AutoregressiveSettings
from jaxtok.quantize.residual import residual_vq
from jaxtok.run.claims import Claim, vary
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.stages import prior_stage
from jaxtok.systems.base import SystemBase
from jaxtok.systems.contract import Request
from jaxtok.systems.image.prior_shape import PriorShape, class_conditioner, next_token_prior
from jaxtok.systems.terms import Distance, SignalObjective
from jaxtok.tokenizers.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, ConvolutionalShape
from jaxtok.tokenizers.signal_tokenizer import SignalTokenizer
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Stage

RATE, PITCHES = 800, (50.0, 80.0, 120.0)


class Beeps(Source):
    """Sine tones of three pitches, 4 to 10 hundredths of a second long."""

    classes = ("low", "middle", "high")

    def __init__(self, count: int, first: int):
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def raw(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(self.first + index)
        label, length = int(rng.integers(3)), int(rng.integers(32, 81))
        tone = 0.5 * np.sin(2 * np.pi * PITCHES[label] * np.arange(length) / RATE + rng.uniform(0, 6))
        return {"audio": tone.astype(np.float32)[:, None], "label": label, "key": str(index)}

    def identity(self) -> Any:
        return ["beeps", self.count, self.first]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeepData(Dataset):
    """Beeps, embedded."""

    samples: int = 80
    """Samples of the longest."""

    def open(self, split: str) -> Source:
        return Beeps(64, 0) if split == "train" else Beeps(24, 1000)

    def fields(self) -> Mapping[str, Field]:
        return {
            "audio": Field((self.samples, 1), np.float32, "length"),
            "label": Field((), np.int32, blank=-1),
        }

    def example(self, record: Mapping[str, Any], step: int, rng: Any) -> dict[str, np.ndarray]:
        return {"audio": record["audio"], "label": np.array(record["label"], np.int32)}


@dataclasses.dataclass(frozen=True)
class BeepCodec(SystemBase):
    """The codec and its prior.

    Attributes:
      depth: codebooks.
      codes: of each.
      hop: samples per token.
    """

    depth: int = 2
    codes: int = 8
    hop: int = 8
    priors = ("autoregressive",)
    classes = 3
    has_tokenizer = True

    @property
    def modality(self) -> AudioModality:
        return AudioModality(RATE)

    @property
    def space(self) -> CodeSpace:
        return CodeSpace((self.codes,) * self.depth)

    @property
    def tokens(self) -> int:
        return 80 // self.hop

    @property
    def samples_per_token(self) -> int:
        return self.hop

    def tokenizer(self) -> SignalTokenizer:
        shape = ConvolutionalShape((4, 8, 8), (2, self.hop // 2), features=4, window=3, latent_window=3)
        quantizer = residual_vq(self.depth, self.codes, 4, learning="ema")
        return SignalTokenizer(ConvolutionalEncoder(shape), quantizer, ConvolutionalDecoder(shape), (80,))

    def shapes(self) -> dict[str, Any]:
        key, x = jax.random.key(0), jax.ShapeDtypeStruct((1, 80, 1), jnp.float32)
        prior = self.prior_named("autoregressive")
        condition = self.condition({"label": jnp.zeros(1, jnp.int32)}, {})
        return {
            "tokenizer": jax.eval_shape(lambda x: self.tokenizer().init({"params": key}, x, key=key), x),
            "autoregressive": {"params": jax.eval_shape(prior.init, key, prior.example(), condition)},
        }

    def encode(self, variables: Any, batch: Mapping[str, Any]) -> Latents:
        mask = batch.get("audio_mask")
        return self.tokenizer().apply(variables, jnp.asarray(batch["audio"]), mask, method="encode")  # type: ignore

    def decode(self, variables: Any, latents: Latents, **reads: Any) -> dict[str, Any]:
        return {"audio": self.tokenizer().apply(variables, latents, method="decode")}

    def condition(self, batch: Mapping[str, Any], frozen: Any) -> Condition:
        return class_conditioner(PriorShape(1, 1, 8), 3).condition(batch["label"])

    def request_of(self, asked: Any) -> Request:
        return Request(labels=[int(label) for label in asked])

    def request_batch(self, request: Request) -> dict[str, np.ndarray]:
        if request.labels is None:
            raise ValueError("beeps are sampled by their class; give labels from 0 to 2")
        return {"label": np.asarray(request.labels, np.int32)}

    def label_reading(self) -> tuple[int, bool]:
        return 3, True

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Any:
        if name not in self.priors:
            return super().prior_named(name)
        settings = AutoregressiveSettings(guidance=0.0)
        return next_token_prior(PriorShape(1, 1, 8), self.space, self.tokens, 3, settings)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what is computed."""

    data: BeepData = BeepData(batch_size=8)
    model: BeepCodec = BeepCodec()
    tokenizer: TrainConfig = TrainConfig(steps=20, learning_rate=3e-3, warmup_steps=0, ema_decay=0.0)
    prior: TrainConfig = TrainConfig(steps=5, learning_rate=3e-3, warmup_steps=0, ema_decay=0.0)


def stages(config: Config) -> Iterator[Stage]:
    """The codec, its prior."""
    model = config.model
    objective = SignalObjective(model.tokenizer(), "audio", (Distance("l1"), Distance("l2", 0.5)))
    evaluator = TokenizerEvaluator(model)
    yield Stage(
        "tokenizer",
        gradient(objective, config.tokenizer),
        config.data,
        config.tokenizer.steps,
        evaluator=evaluator,
    )
    look = SampleEvaluator(model, config.data, None, 3, 2)
    yield prior_stage(
        "autoregressive", model.prior_named("autoregressive"), model, config.data, config.prior, look
    )


PRESETS = {"tiny": Config()}
CLAIMS = [Claim("more codebooks, higher SNR", vary("model.depth", 1, 2, metric="tokenizer/waveform_snr_db"))]


def main(argv: Sequence[str]) -> None:
    """The command line."""
    cli.main("beeps", PRESETS, stages, CLAIMS, __doc__, argv)
