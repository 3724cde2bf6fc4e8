"""FlexTok: an image as 1 to 256 ordered tokens and a flow that draws it (arXiv 2502.13967).

Register tokens read an image, or the latents of an autoencoder, in a transformer and become six scalars of
few levels each. A rectified-flow transformer draws images from noise, conditioned on them. Training keeps a
random number of the first tokens, so that they are ordered from coarse to fine and any prefix decodes; a
language model then writes as many of them as one wants.

    python experiments/image/flextok.py                             # tiny: 8x8 digits, 2 CPU cores, minutes
    python experiments/image/flextok.py sample --captions 3 7 --prior autoregressive
    python experiments/image/flextok.py --preset tiny-text          # a prior of captions
    python experiments/image/flextok.py verify                      # claims in miniature
    python experiments/image/flextok.py plan --preset d18-d28 --topology v5p:4x4x4
    python experiments/image/flextok.py --preset d18-d28 --data.path images --model.vae.path vae.safetensors

In Python `system.sample([7] * 8, prior="autoregressive", tokens=4)` of `system = jaxtok.load("runs/...")`
draws four tokens and decodes those.

With seed 0 the tokenizer of `tiny` reached 11.6, 13.7, 15.3, 15.4 and 15.7 dB on held-out digits with the
first 1, 2, 4, 8 and 16 tokens, and used all 64 codes.

The published sizes need an accelerator and the weights of the autoencoder, and nothing was trained at those
sizes here. The official training code is not public: optimizer, learning rates and steps of the published
presets are common choices, not the authors'. REPA, the alignment with DINOv2's features, is off, because the
library has no network of those features; `FlowObjective` takes any.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.folder import ImageFolder
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.prefixes import PrefixEvaluator
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import PriorRecipe
from jaxtok.run.stages import prior_stage
from jaxtok.systems.flow_objective import FlowObjective, FlowWeights
from jaxtok.systems.image.flextok import SIZES, FlexTok
from jaxtok.tokenizers.nested_dropout import prefix_lengths
from jaxtok.train.gradient import gradient
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import TOKENIZER_RULES
from jaxtok.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Config(PriorRecipe):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
      weights: of the tokenizer's loss, and its times.
    """

    model: FlexTok
    weights: FlowWeights = FlowWeights()


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64),
    model=FlexTok.tiny(),
    weights=FlowWeights("uniform"),
    # A fresh flow decoder reads no tokens yet. An encoder that moves as fast as it, on what little gradient
    # that leaves, ends up with one code for all images.
    tokenizer=TrainConfig(
        steps=1200, learning_rate=3e-3, warmup_steps=100, ema_decay=0.99, groups=((r"^encoder/", 0.2),)
    ),
    prior=TrainConfig.brief(300, 1e-3),
    scorer="digits",
)


def published(size: str) -> Config:
    """A released size."""
    return Config(
        data=ImageFolder(image_sizes=(256,), channels=3, batch_size=1024, flip=True),
        model=FlexTok.published(size),
        tokenizer=TrainConfig(
            steps=500_000, learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.02, ema_decay=0.9999
        ),
        prior=TrainConfig(
            steps=300_000,
            learning_rate=2e-4,
            warmup_steps=10_000,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            ema_decay=0.9999,
        ),
    )


TINY_TEXT = replace(
    TINY,
    data=replace(TINY.data, text_length=TINY.model.text.length),
    model=replace(TINY.model, conditioning="text"),
)

PRESETS = {"tiny": TINY, "tiny-text": TINY_TEXT, **{size: published(size) for size in SIZES}}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer, prior."""
    model, dtype, scorer = config.model, compute_dtype(config.precision), scorer_named(config.scorer)
    networks = model.tokenizer_networks()
    objective = FlowObjective(model.tokenizer(dtype), config.weights, model.read, tuple(networks))
    yield Stage(
        "tokenizer",
        gradient(objective, config.tokenizer),
        config.data,
        config.tokenizer.steps,
        networks=networks,
        rules=TOKENIZER_RULES,
        evaluator=PrefixEvaluator(model, scorer),
    )
    evaluator = SampleEvaluator(model, config.data, scorer, *((model.classes, 50) if scorer else (200, 1)))
    prior = model.autoregressive(dtype)
    yield prior_stage(
        "autoregressive", prior, model, config.data, config.prior, evaluator, grouping=model.grouping
    )


LENGTHS = prefix_lengths(TINY.model.tokens)
QUARTER = TINY.model.tokens // 4
LOST = f"tokenizer/psnr_lost_first_{QUARTER}"
WITHOUT = (("model.nested", "none"),)
CLAIMS = [
    Claim(
        "with nested dropout, more tokens, higher PSNR (dB)",
        tuple(Arm(f"first {n}", f"tokenizer/psnr_uint8_first_{n}") for n in LENGTHS),
    ),
    Claim(
        "with nested dropout, a quarter of the tokens costs less than 4 dB",
        (Arm("with nested dropout", LOST), Arm("hypothesis", constant=4.0)),
    ),
    Claim(
        "without nested dropout, keeping a quarter of the tokens costs more (dB lost)",
        (Arm("with nested dropout", LOST), Arm("without", LOST, WITHOUT)),
        margin=3.0,
    ),
    Claim(
        "more tokens, less diversity of what the flow draws of them (MSE of two draws)",
        tuple(Arm(f"first {n}", f"tokenizer/diversity_first_{n}") for n in LENGTHS),
        relation="decreasing",
    ),
]

if __name__ == "__main__":
    cli.main("flextok", PRESETS, stages, CLAIMS, __doc__)
