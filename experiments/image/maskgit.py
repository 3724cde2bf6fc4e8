"""Masked generation of image tokens in a few parallel steps (MaskGIT, arXiv 2202.04200; as TiTok's generator,
arXiv 2406.07550).

A tokenizer turns an image into N tokens of one codebook; a masked prior draws them under a class, all at once
and in a few steps, keeping the most certain first. An autoregressive prior of the same size, which needs a
step per token, is the comparison.

    python experiments/image/maskgit.py                    # tiny: 8x8 digits as 16 tokens, 2 CPU cores, minutes
    python experiments/image/maskgit.py verify             # the claims in miniature
    python experiments/image/maskgit.py --generator.form unet --generator.settings.order halton

The tokenizer is the "vq" arm of Instella-T2I's ViT with learned queries. The released generators (BERT for
TiTok-L-32 and B-64, U-ViT for S-128) are sizes of `jaxtok.systems.image.titok_maskgit`; nothing was trained at
those sizes here.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxtok import cli
from jaxtok.codes import Condition
from jaxtok.data.config import Data
from jaxtok.nn.conditioning import ClassConditioner
from jaxtok.nn.latent_transformer import LatentTransformer
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Prior
from jaxtok.systems.image.instella_t2i import InstellaT2I
from jaxtok.systems.image.titok_maskgit import TiTokMaskGIT
from jaxtok.systems.objectives import PriorObjective, TokenizerObjective, TokenizerWeights
from jaxtok.train.claims import Arm, Claim
from jaxtok.train.gradient import gradient
from jaxtok.train.image_views import ClassSampler, SampleView, TokenizerView, judge_named
from jaxtok.train.precision import Precision, compute_dtype
from jaxtok.train.schedules import Fit
from jaxtok.train.sharding import TRANSFORMER_RULES
from jaxtok.train.stage import Stage


@dataclass(frozen=True)
class Config:
    """Everything that decides what is computed.

    Attributes:
      data: images and their classes.
      model: sizes of the tokenizer; its priors are not used.
      generator: sizes of the masked prior, of as many tokens and codes as the tokenizer has.
      weights: of the tokenizer's loss.
      autoregressive: sampler settings of the comparison, which has the generator's depth and width.
      tokenizer: how the tokenizer is trained.
      prior: how each prior is trained.
      judge: what says whether samples show their class.
      precision: of the computation; "auto" is bfloat16 on accelerators.
    """

    data: Data
    model: InstellaT2I
    generator: TiTokMaskGIT
    weights: TokenizerWeights = TokenizerWeights()
    autoregressive: AutoregressiveSettings = AutoregressiveSettings(guidance=1.0)
    tokenizer: Fit = Fit()
    prior: Fit = Fit()
    judge: Literal["digits", "none"] = "none"
    precision: Precision = "auto"

    def __post_init__(self):
        tokenizer, generator = self.model, self.generator
        if generator.tokens != tokenizer.tokens or generator.space != tokenizer.space:
            raise ValueError(
                f"the generator models {generator.tokens} tokens of levels {generator.space.levels}, the "
                f"tokenizer makes {tokenizer.tokens} of {tokenizer.space.levels}; set both alike"
            )


TINY = Config(
    data=Data("digits", image_sizes=(8,), channels=1, batch_size=64, text_length=24),
    model=dataclasses.replace(InstellaT2I.tiny(), quantizer="vq", tokens=16, codebook=64),
    generator=TiTokMaskGIT.tiny(),
    tokenizer=Fit(steps=600, learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),
    prior=Fit(steps=600, learning_rate=1e-3, warmup_steps=50, ema_decay=0.99),
    judge="digits",
)

PRESETS = {"tiny": TINY}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer, masked prior, autoregressive prior."""
    model, judge, data = config.model, judge_named(config.judge), config.data
    dtype = compute_dtype(config.precision)
    tokenizer = TokenizerObjective(model.tokenizer(dtype), config.weights)
    yield Stage(
        "tokenizer",
        gradient(tokenizer, config.tokenizer),
        data,
        config.tokenizer.steps,
        rules=TRANSFORMER_RULES,
        view=TokenizerView(model, judge),
    )
    masked, comparison = config.generator.prior(dtype), autoregressive(config, dtype)
    for name, prior, condition in (
        ("masked", masked, masked.network.class_condition),
        ("autoregressive", comparison, comparison.network.conditioner.condition),
    ):
        objective = PriorObjective(prior, model.encode, by_label(condition))
        view = SampleView(
            model,
            data,
            judge,
            config.generator.classes,
            sampler=ClassSampler(prior, condition),
            objective=objective,
        )
        yield Stage(
            name,
            gradient(objective, config.prior),
            data,
            config.prior.steps,
            frozen=("tokenizer",),
            rules=TRANSFORMER_RULES,
            view=view,
        )


def autoregressive(config: Config, dtype: Any) -> Prior:
    """A next-token prior of the generator's depth and width."""
    size = config.generator
    network = LatentTransformer(
        size.space,
        size.tokens,
        size.layers,
        size.heads,
        size.width // size.heads,
        causal=True,
        timed=False,
        conditioner=ClassConditioner(size.classes, size.width),
        unroll=size.unroll,
        dtype=dtype,
    )
    return Prior(network, Autoregressive(size.space, settings=config.autoregressive))


def by_label(condition: Callable[[jax.Array], Condition]) -> Callable[[Any, Any], Condition]:
    """The condition of a training batch."""

    def of_batch(batch, frozen):
        del frozen
        return condition(batch["label"])

    return of_batch


if __name__ == "__main__":
    cli.main("maskgit", PRESETS, stages, [], __doc__)
