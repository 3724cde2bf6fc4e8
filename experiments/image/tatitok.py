"""TA-TiTok: few tokens of an image, and a decoder that reads the caption too (arXiv 2501.07730).

What the caption says need not be in the tokens. The decoder of a TiTok takes the caption's tokens as well, so
that the latent tokens are free for the rest; the tokenizer is trained in one stage, and unused codes move to
features.

    python experiments/image/tatitok.py                       # tiny: 8x8 digits, 2 CPU cores, a minute
    python experiments/image/tatitok.py --model.text-length 0 # the same without the caption
    python experiments/image/tatitok.py --preset shapes       # captioned scenes; wants an accelerator
    python experiments/image/tatitok.py verify                # the paper's claim in miniature

Here the captions' bytes go through a small encoder that is trained along. The released tokenizers read
features of a frozen CLIP: `experiments/image/maskgen.py` has it, and their recipe. Their sizes are in
`jaxtok.systems.image.tatitok`, their weights load with `jaxtok.convert`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.shapes import Shapes
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import TokenizerRecipe
from jaxtok.systems.image.tatitok import TATiTok
from jaxtok.systems.objectives import TokenizerWeights, objective_for
from jaxtok.train.gradient import gradient
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import TOKENIZER_RULES
from jaxtok.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Config(TokenizerRecipe):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
      weights: of the tokenizer's loss.
    """

    model: TATiTok
    weights: TokenizerWeights = TokenizerWeights("l2")


FIT = TrainConfig(steps=600, learning_rate=2e-3, warmup_steps=50, ema_decay=0.98)
TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64, text_length=20),
    model=TATiTok.tiny(),
    tokenizer=FIT,
    scorer="digits",
)
SHAPES = Config(
    data=Shapes(image_sizes=(32,), channels=3, batch_size=64, text_length=72),
    model=TATiTok.scenes(),
    tokenizer=replace(FIT, steps=20_000, learning_rate=1e-3),
    scorer="shapes",
)

PRESETS = {"tiny": TINY, "shapes": SHAPES}


def stages(config: Config) -> Iterator[Stage]:
    """The tokenizer."""
    model = config.model
    text = model.decoder_condition if model.text_length else None
    objective = objective_for(config.model.quantizer)(
        model.tokenizer(compute_dtype(config.precision)), config.weights, text=text
    )
    evaluator = TokenizerEvaluator(model, scorer_named(config.scorer))
    yield Stage(
        "tokenizer",
        gradient(objective, config.tokenizer),
        config.data,
        config.tokenizer.steps,
        rules=TOKENIZER_RULES,
        evaluator=evaluator,
    )


NO_TEXT = ("model.text_length", 0)
DIGIT, PSNR = "tokenizer/reconstruction_class_accuracy_digits_svc", "tokenizer/psnr_uint8"


def with_and_without(metric: str) -> tuple[Arm, Arm]:
    """Reconstructions of a decoder without the caption, and of one with it."""
    return Arm("without caption", metric, (NO_TEXT,)), Arm("with caption", metric)


CLAIMS = [
    Claim(
        "with 2 tokens, a decoder that reads the caption shows its digit more often",
        with_and_without(DIGIT),
    ),
    Claim("and reconstructs better (PSNR, dB)", with_and_without(PSNR)),
    Claim(
        "more tokens say more of it themselves (digits shown, no caption)",
        tuple(Arm(f"{n} tokens", DIGIT, (NO_TEXT, ("model.tokens", n))) for n in (2, 8)),
    ),
]

if __name__ == "__main__":
    cli.main("tatitok", PRESETS, stages, CLAIMS, __doc__)
