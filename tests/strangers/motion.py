"""A stranger: stick figures that wave for some frames, a pose quantizer, and a masked prior with lengths."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import cli
from jaxtok.codes import CodeSpace, Latents, Reconstruction
from jaxtok.data.dataset import Dataset, Field
from jaxtok.data.records import Source
from jaxtok.modality.motion import MotionModality
from jaxtok.nn.masked_transformer import MaskedTransformer, masked_vocab
from jaxtok.priors.contract import Prior
from jaxtok.priors.masked import Masked
from jaxtok.priors.masked_sampling import MaskedSettings
from jaxtok.quantize.vq import VectorQuantizer
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.stages import prior_stage
from jaxtok.systems.base import SystemBase
from jaxtok.systems.terms import Distance, SignalObjective
from jaxtok.tokenizers.quantizer_state import QuantizerTokenizer
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Stage

FRAMES, JOINTS = 12, 3


class Waves(Source):
    """A body, a shoulder and a hand that goes round, 4 to 12 frames."""

    def __init__(self, count: int, first: int):
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def raw(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(self.first + index)
        angle = rng.uniform(0, 6) + rng.uniform(0.3, 0.8) * np.arange(int(rng.integers(4, FRAMES + 1)))
        still = np.zeros_like(angle)
        joints = np.stack([still, still, still, still + 1, np.sin(angle), 1 + np.cos(angle)], axis=1)
        return {"motion": joints.astype(np.float32), "key": str(index)}

    def identity(self) -> Any:
        return ["waves", self.count, self.first]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveData(Dataset):
    """Waves, embedded."""

    def open(self, split: str) -> Source:
        return Waves(64, 0) if split == "train" else Waves(24, 1000)

    def fields(self) -> Mapping[str, Field]:
        return {"motion": Field((FRAMES, 2 * JOINTS), np.float32, "length")}

    def example(self, record: Mapping[str, Any], step: int, rng: Any) -> dict[str, np.ndarray]:
        return {"motion": record["motion"]}


class PoseTokenizer(QuantizerTokenizer):
    """A token per frame."""

    quantizer: Any

    def setup(self):
        self.read, self.write = nn.Dense(8), nn.Dense(2 * JOINTS)

    def features(self, x: jax.Array, mask: Any = None) -> jax.Array:
        return self.read(jnp.asarray(x))

    def token_mask(self, x: jax.Array, mask: Any) -> jax.Array:
        return jnp.asarray(mask)

    def __call__(
        self, x: jax.Array, train: bool = False, key: Any = None, mask: Any = None
    ) -> Reconstruction:
        real = {} if mask is None else {"mask": mask}
        quantized = self.quantizer(self.features(x), train=train, key=key, **real)
        return Reconstruction(quantized, self.write(quantized.values))

    def encode(self, x: jax.Array, mask: Any = None) -> Latents:
        codes = self.quantizer.encode(self.features(x))
        every = None if mask is None else jnp.broadcast_to(jnp.asarray(mask)[..., None], codes.shape)
        return Latents(codes=codes if every is None else jnp.where(every, codes, 0), mask=every)

    def decode(self, codes: jax.Array) -> jax.Array:
        return self.write(self.embed(codes))


@dataclasses.dataclass(frozen=True)
class Poses(SystemBase):
    """Poses and their prior.

    Attributes:
      codes: of a pose.
    """

    codes: int = 16
    priors = ("masked",)
    has_tokenizer = True
    tokens = FRAMES

    @property
    def modality(self) -> MotionModality:
        return MotionModality(10.0, ((0, 1), (1, 2)))

    @property
    def space(self) -> CodeSpace:
        return CodeSpace((self.codes,))

    def tokenizer(self) -> PoseTokenizer:
        return PoseTokenizer(VectorQuantizer(self.codes, 8, learning="ema"))

    def shapes(self) -> dict[str, Any]:
        key, x = jax.random.key(0), jax.ShapeDtypeStruct((1, FRAMES, 2 * JOINTS), jnp.float32)
        prior = self.prior_named("masked")
        return {
            "tokenizer": jax.eval_shape(lambda x: self.tokenizer().init({"params": key}, x, key=key), x),
            "masked": {"params": jax.eval_shape(prior.init, key, prior.example(), None)},
        }

    def encode(self, variables: Any, batch: Mapping[str, Any]) -> Latents:
        x, mask = jnp.asarray(batch["motion"]), batch.get("motion_mask")
        return self.tokenizer().apply(variables, x, mask, method="encode")  # type: ignore

    def decode(self, variables: Any, latents: Latents, **reads: Any) -> dict[str, Any]:
        return {"motion": self.tokenizer().apply(variables, latents.codes, method="decode")}

    def prior_named(self, name: str, dtype: Any = jnp.float32) -> Prior:
        if name not in self.priors:
            return super().prior_named(name)
        network = MaskedTransformer(masked_vocab(self.space, 0), FRAMES, 1, 1, 8, 16)
        settings = MaskedSettings(3, guidance=0.0)
        return Prior(network, Masked(self.space, condition_dropout=0.0, settings=settings))


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what is computed."""

    data: WaveData = WaveData(batch_size=8)
    model: Poses = Poses()
    tokenizer: TrainConfig = TrainConfig(steps=20, learning_rate=1e-2, warmup_steps=0, ema_decay=0.0)
    prior: TrainConfig = TrainConfig(steps=5, learning_rate=1e-2, warmup_steps=0, ema_decay=0.0)


def stages(config: Config) -> Iterator[Stage]:
    """The quantizer of poses, its prior."""
    model, data = config.model, config.data
    objective = SignalObjective(model.tokenizer(), "motion", (Distance("l2"),))
    update = gradient(objective, config.tokenizer)
    yield Stage("tokenizer", update, data, config.tokenizer.steps, evaluator=TokenizerEvaluator(model))
    look = SampleEvaluator(model, data, None, 3, 2)
    yield prior_stage("masked", model.prior_named("masked"), model, data, config.prior, look)


PRESETS = {"tiny": Config()}


def main(argv: Sequence[str]) -> None:
    """The command line."""
    cli.main("waves", PRESETS, stages, (), __doc__, argv)
