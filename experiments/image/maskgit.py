"""Masked generation of image tokens in a few parallel steps (MaskGIT, arXiv 2202.04200; as TiTok's generator,
arXiv 2406.07550).

A tokenizer turns an image into N tokens of one codebook; a masked prior draws them under a class, all at once
and in a few steps, keeping the most certain first. An autoregressive prior of the same size, which needs a
step per token, is the comparison.

    python experiments/image/maskgit.py                    # tiny: digits as 16 tokens, 2 CPU cores, minutes
    python experiments/image/maskgit.py verify             # the claims in miniature
    python experiments/image/maskgit.py --model.generator.form unet --model.generator.settings.order halton

The tokenizer is the "vq" arm of Instella-T2I's ViT with learned queries. The released generators (BERT for
TiTok-L-32 and B-64, U-ViT for S-128) are sizes of `jaxtok.systems.image.titok_maskgit`; nothing was trained
at those sizes here.

One run of `tiny` (seed 0, 640 samples, share that a classifier takes for their class): all tokens at
once 0.78, 4 steps 0.83, 16 steps 0.86; 4 steps in random order 0.68; its tokenizer is short (0.70 of held-out
reconstructions), and samples are as blurred. On two CPU cores the masked prior is the slower one (99 images a
second against 224): with its cache the autoregressive prior does a quarter of the arithmetic. Parallel steps
pay where the number of steps costs, not their size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jaxtok import cli
from jaxtok.data.config import Data
from jaxtok.systems.image.maskgit import PRIORS, MaskGIT
from jaxtok.systems.objectives import PriorObjective, TokenizerObjective, TokenizerWeights
from jaxtok.train.claims import Arm, Claim
from jaxtok.train.gradient import gradient
from jaxtok.train.image_views import PriorSampler, SampleView, TokenizerView, judge_named
from jaxtok.train.precision import Precision, compute_dtype
from jaxtok.train.schedules import Fit
from jaxtok.train.sharding import PRIOR_RULES, TOKENIZER_RULES
from jaxtok.train.stage import Stage, StageCodes


@dataclass(frozen=True)
class Config:
    """Everything that decides what is computed.

    Attributes:
      data: images and their classes.
      model: sizes.
      weights: of the tokenizer's loss.
      tokenizer: how the tokenizer is trained.
      prior: how each prior is trained.
      judge: what says whether samples show their class.
      precision: of the computation; "auto" is bfloat16 on accelerators.
    """

    data: Data
    model: MaskGIT
    weights: TokenizerWeights = TokenizerWeights()
    tokenizer: Fit = Fit()
    prior: Fit = Fit()
    judge: Literal["digits", "none"] = "none"
    precision: Precision = "auto"


TINY = Config(
    data=Data("digits", image_sizes=(8,), channels=1, batch_size=64, text_length=24),
    model=MaskGIT.tiny(),
    tokenizer=Fit(steps=400, learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),
    prior=Fit(steps=300, learning_rate=1e-3, warmup_steps=50, ema_decay=0.99),
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
        rules=TOKENIZER_RULES,
        view=TokenizerView(model, judge),
    )
    for name in PRIORS:
        prior = model.prior_named(name, dtype)
        objective = PriorObjective(prior, model.encode, model.batch_condition)
        sampler = PriorSampler(prior, model.class_condition, classes=True)
        yield Stage(
            name,
            gradient(objective, config.prior),
            data,
            config.prior.steps,
            frozen=("tokenizer",),
            rules=PRIOR_RULES,
            view=SampleView(model, data, judge, model.classes, sampler=sampler, objective=objective),
            codes=StageCodes(model.space, model.codec.tokens),
        )


ACCURACY = "masked/sample_class_accuracy_digits_svc_w1"
SPEED = "samples_per_second_w1"
STEPS = "model.generator.settings.steps"
CLAIMS = [
    Claim(
        "4 parallel steps show the class as often as 16, one per token, up to five points",
        (
            Arm("16 steps, less 0.05", ACCURACY, ((STEPS, 16),), offset=-0.05),
            Arm("4 steps", ACCURACY),
        ),
    ),
    Claim(
        "4 steps show the class more often than all tokens at once",
        (Arm("1 step", ACCURACY, ((STEPS, 1),)), Arm("4 steps", ACCURACY)),
    ),
    Claim(
        "keeping the most certain tokens shows the class more often than keeping random ones",
        (
            Arm("random order", ACCURACY, (("model.generator.settings.order", "random"),)),
            Arm("most certain first", ACCURACY),
        ),
    ),
    Claim(
        "4 masked steps draw more images a second than 16 autoregressive ones",
        (Arm("autoregressive", f"autoregressive/{SPEED}"), Arm("masked", f"masked/{SPEED}")),
    ),
]

if __name__ == "__main__":
    cli.main("maskgit", PRESETS, stages, CLAIMS, __doc__)
