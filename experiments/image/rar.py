"""RAR: a next-token prior that learns in random orders first, then row by row (arXiv 2411.00776).

A network that predicts each token from any set of others learns to look both ways. The part of the batch that
comes in a random order goes from 1 to 0 during the training, so that in the end there is a plain next-token
prior, sampled row by row with its cache.

    python experiments/image/rar.py                             # tiny: 8x8 digits, 2 CPU cores, minutes
    python experiments/image/rar.py verify                      # claims in miniature
    python experiments/image/rar.py sample --captions 3 7 --prior autoregressive
    python experiments/image/rar.py plan --preset b --topology v5e:8x8
    python experiments/image/rar.py --preset b --data:folder --data.path images

The published sizes reach a gFID of 1.95 (B, 261M parameters), 1.70 (L), 1.50 (XL) and 1.48 (XXL, 1.5B) on
ImageNet at 256 px. They need an accelerator, and nothing was trained at those sizes here. Their recipes are
the official ones but for these things: the generator trains without its dropout of 0.1, its learning rate
falls to zero and not to 1e-5, and it trains on codes that are made anew, flipped and cropped. The official
tokenizer was never trained anew either: load the released one (`jaxtok.convert`, "maskgit_vqgan").
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.folder import ImageFolder
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import PriorRecipe
from jaxtok.run.stages import prior_stage
from jaxtok.systems.image.rar import RAR
from jaxtok.systems.objectives import TokenizerWeights, objective_for
from jaxtok.train.gradient import gradient
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import CODEBOOK_RULES
from jaxtok.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Config(PriorRecipe):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
      weights: of the tokenizer's loss.
      random_until: part of the generator's training in which every order is random.
      raster_from: part of it from which none is; between the two the probability falls linearly.
    """

    model: RAR
    weights: TokenizerWeights = TokenizerWeights()
    random_until: float = 0.5
    raster_from: float = 0.75

    def __post_init__(self):
        if not 0 <= self.random_until <= self.raster_from <= 1:
            raise ValueError(
                f"random_until={self.random_until} and raster_from={self.raster_from} must be parts of the "
                "training in this order, between 0 and 1"
            )


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64),
    model=RAR.tiny(),
    weights=TokenizerWeights("l2"),
    tokenizer=TrainConfig.brief(400, 2e-3),
    prior=TrainConfig.brief(400, 1e-3),
    scorer="digits",
)


def published(size: str) -> Config:
    """The official recipe of a generator at 256 px."""
    model = RAR.published(size)
    codec = replace(model.codec, shape=replace(model.codec.shape, remat=True))
    generator = replace(model.generator, remat="dots" if size in ("B", "L") else "full")
    return Config(
        data=ImageFolder(image_sizes=(256,), channels=3, batch_size=2048, flip=True, crop="random_resized"),
        model=RAR(codec, generator),
        tokenizer=TrainConfig(
            steps=1_000_000, learning_rate=1e-4, warmup_steps=5000, betas=(0.9, 0.999), ema_decay=0.999
        ),
        prior=TrainConfig(
            steps=250_000,
            learning_rate=4e-4,
            warmup_steps=62_500,
            weight_decay=0.03,
            betas=(0.9, 0.96),
            ema_decay=0.0,
        ),
    )


PRESETS = {"tiny": TINY, **{size.lower(): published(size) for size in ("B", "L", "XL", "XXL")}}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer, generator."""
    model, scorer, dtype = config.model, scorer_named(config.scorer), compute_dtype(config.precision)
    yield Stage(
        "tokenizer",
        gradient(
            objective_for(model.codec.quantizer)(model.tokenizer(dtype), config.weights), config.tokenizer
        ),
        config.data,
        config.tokenizer.steps,
        rules=CODEBOOK_RULES,
        evaluator=TokenizerEvaluator(model, scorer),
    )
    annealing = (round(part * config.prior.steps) for part in (config.random_until, config.raster_from))
    prior = model.generator.prior(dtype, *annealing)
    evaluator = SampleEvaluator(
        model, config.data, scorer, model.classes if scorer else 200, 50 if scorer else 1
    )
    yield prior_stage(
        "autoregressive", prior, model, config.data, config.prior, evaluator, grouping=model.grouping
    )


NLL = "autoregressive/nll_nats_per_slot"  # of held-out codes, row by row
ACCURACY = "autoregressive/sample_class_accuracy_digits_svc"
RANDOM = (("raster_from", 1.0), ("random_until", 1.0))
RASTER = (("random_until", 0.0), ("raster_from", 0.0))
CLAIMS = [
    Claim(
        "random orders that are annealed away beat random orders alone (held-out nats per code, row by row)",
        (Arm("random orders", NLL, RANDOM), Arm("annealed", NLL)),
        relation="decreasing",
    ),
    Claim(
        "after as many steps, annealed random orders also beat rows alone (held-out nats per code)",
        (Arm("row by row", NLL, RASTER), Arm("annealed", NLL)),
        relation="decreasing",
    ),
    Claim(
        "guidance 3 raises the class accuracy of samples over guidance 0",
        (Arm("w = 0", f"{ACCURACY}_w0"), Arm("w = 3", f"{ACCURACY}_w3")),
    ),
]

if __name__ == "__main__":
    cli.main("rar", PRESETS, stages, CLAIMS, __doc__)
