"""MaskGen: text to image by masked prediction of few tokens that a caption completes (arXiv 2501.07730).
python experiments/image/maskgen.py
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from jaxtok import cli
from jaxtok.data.config import Data
from jaxtok.systems.image.maskgen import MaskGen
from jaxtok.systems.objectives import PriorObjective, TokenizerObjective, TokenizerWeights
from jaxtok.train.gradient import gradient
from jaxtok.train.image_views import OtherCaptions, PriorSampler, SampleView, TokenizerView, judge_named
from jaxtok.train.precision import Precision, compute_dtype
from jaxtok.train.schedules import Fit
from jaxtok.train.sharding import TIED_RULES, TOKENIZER_RULES
from jaxtok.train.stage import Stage, StageCodes


@dataclass(frozen=True)
class Config:
    """Everything that decides what is computed.

    Attributes:
      data: images and captions.
      model: sizes.
      weights: of the tokenizer's loss.
      tokenizer: how the tokenizer is trained.
      prior: how the generator is trained.
      judge: what says whether pictures show what the captions say.
      precision: of the computation; parameters, norms, quantizers and losses are always float32. "auto" is
        bfloat16 on accelerators.
    """

    data: Data
    model: MaskGen
    weights: TokenizerWeights = TokenizerWeights("l2")
    tokenizer: Fit = Fit()
    prior: Fit = Fit()
    judge: Literal["digits", "shapes", "none"] = "none"
    precision: Precision = "auto"


TINY = Config(
    data=Data("digits", image_sizes=(8,), channels=1, batch_size=64, text_length=20),
    model=MaskGen.tiny(),
    tokenizer=Fit(steps=400, learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),
    prior=Fit(steps=500, learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),
    judge="digits",
)

PRESETS = {"tiny": TINY}


def stages(config: Config) -> Iterator[Stage]:
    """The tokenizer, the generator."""
    model, dtype, judge = config.model, compute_dtype(config.precision), judge_named(config.judge)
    text = model.codec.batch_text if model.codec.text_length else None
    objective = TokenizerObjective(model.tokenizer(dtype), config.weights, text=text)
    yield Stage(
        "tokenizer",
        gradient(objective, config.tokenizer),
        config.data,
        config.tokenizer.steps,
        rules=TOKENIZER_RULES,
        view=TokenizerView(model, judge, text=text),
    )
    prior = model.prior_named("masked", dtype)
    objective = PriorObjective(prior, model.encode, model.batch_condition)
    sampler = PriorSampler(prior, model.caption_condition)
    view = SampleView(model, config.data, judge, 10, 50, sampler, objective)
    view = replace(view, others=(("other_captions", OtherCaptions(sampler)),))
    yield Stage(
        "masked",
        gradient(objective, config.prior),
        config.data,
        config.prior.steps,
        frozen=("tokenizer",),
        rules=TIED_RULES,
        view=replace(view, text=model.decoder_text if text else None),
        codes=None if prior.space is None else StageCodes(prior.space, prior.tokens),
    )


CLAIMS = []

if __name__ == "__main__":
    cli.main("maskgen", PRESETS, stages, CLAIMS, __doc__)
