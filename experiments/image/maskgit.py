"""MaskGIT: image tokens in a few parallel steps (arXiv 2202.04200).

A convolutional tokenizer turns an image into a grid of codes; a masked prior draws them under a class, all at
once and in a few steps, keeping the most certain first. An autoregressive prior of the same size, which needs
a step per token, is the comparison.

    python experiments/image/maskgit.py                    # tiny: digits as 16 tokens, 2 CPU cores, minutes
    python experiments/image/maskgit.py verify             # the claims in miniature
    python experiments/image/maskgit.py --model.form unet --model.settings.order halton
    python experiments/image/maskgit.py plan --preset imagenet-256 --topology v5e:8x8
    python experiments/image/maskgit.py --preset imagenet-256 --data:folder --data.path images

TiTok's generators are masked priors too; they train in `experiments/image/titok.py`.

On two CPU cores masked decoding is no faster at the size of `tiny`: with its cache the autoregressive prior
does an eighth of the arithmetic of 8 steps, and its weights stay in the processor's cache. Parallel steps pay
where reading the weights costs more than the arithmetic: one image at a time, of 64 tokens and from 25 M
parameters (8 blocks of width 512), 8 masked steps were 2 to 5 times as fast as 64 cached ones, in single
measurements on a busy machine. What the order costs is variety: keeping the most certain first shows the
class more often, and is further from the distribution of real digits.

The published sizes need an accelerator, and nothing was trained at those sizes here. Their recipes are the
official ones as far as they are known, but for these things: priors train without dropout of 0.1, and the
masked one has TiTok's head, see `jaxtok.systems.image.maskgit`; the perceptual network is off until its
weights are given (--perceptual.kind convnext --perceptual.paths convnext_small.safetensors
--weights.perceptual-weight 0.1); the discriminator is TiTok's and has no gradient penalty.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.folder import ImageFolder
from jaxtok.losses.discriminators import BlurGAN
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samplers import PriorSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import TokenizerAndPrior
from jaxtok.run.stages import prior_stage, tokenizer_stage
from jaxtok.systems.image.maskgit import PRIORS, MaskGIT
from jaxtok.systems.objectives import TokenizerWeights, objective_for
from jaxtok.train.adversarial import DiscriminatorWeights
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import CODEBOOK_RULES
from jaxtok.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Config(TokenizerAndPrior):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
      samples: how many of each class are drawn to measure a prior.
      compare: whether the masked prior is also measured with other numbers of steps, and in other orders.
    """

    model: MaskGIT
    samples: int = 50
    compare: bool = False


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64),
    model=MaskGIT.tiny(),
    tokenizer=TrainConfig.brief(600, 2e-3),
    prior=TrainConfig.brief(300, 1e-3),
    scorer="digits_frechet",
)


def published(model: MaskGIT) -> Config:
    """The official recipe of a published size."""
    return Config(
        data=ImageFolder(
            image_sizes=(model.codec.image_size,),
            channels=3,
            batch_size=256,
            flip=True,
            crop="random_resized",
        ),
        model=model,
        # Pixels span 2 here and 1 in the official code, so its squares are a quarter of ours.
        weights=TokenizerWeights("l2", reconstruction_weight=0.25),
        discriminator=DiscriminatorWeights(weight=0.1, loss="nonsaturating", adaptive_limit=0.0),
        tokenizer=TrainConfig(
            steps=1_000_000,
            learning_rate=1e-4,
            schedule="constant",
            warmup_steps=0,
            weight_decay=0.0,
            betas=(0.0, 0.99),
        ),
        prior=TrainConfig(
            steps=2_000_000,
            learning_rate=1e-4,
            schedule="constant",
            warmup_steps=5_000,
            weight_decay=0.045,
            betas=(0.9, 0.96),
        ),
        samples=1,
    )


PRESETS = {
    "tiny": TINY,
    "imagenet-256": published(MaskGIT.imagenet_256()),
    "imagenet-512": published(MaskGIT.imagenet_512()),
}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer, masked prior, autoregressive prior."""
    model, dtype, scorer = config.model, compute_dtype(config.precision), scorer_named(config.scorer)
    discriminator, evaluator = (
        BlurGAN.of_size(min(config.data.image_sizes)),
        TokenizerEvaluator(model, scorer),
    )
    yield tokenizer_stage(
        config,
        model.tokenizer(dtype),
        evaluator,
        discriminator,
        "decoder/conv_out/kernel",
        CODEBOOK_RULES,
        objective=objective_for(model.codec.quantizer),
    )
    for name in PRIORS:
        others = tuple(variants(config)) if config.compare and name == "masked" else ()
        look = SampleEvaluator(model, config.data, scorer, model.classes, config.samples, others=others)
        yield prior_stage(name, model.prior_named(name, dtype), model, config.data, config.prior, look)


def variants(config: Config) -> Iterator[tuple[str, PriorSampler]]:
    """The same prior, drawn in one step, in fewer, in one per token, and in other orders."""
    model = config.model
    for name, change in {
        "1_step": {"steps": 1},
        "4_steps": {"steps": 4},
        "step_per_token": {"steps": model.tokens},
        "4_steps_random": {"steps": 4, "order": "random"},
        "4_steps_halton": {"steps": 4, "order": "halton"},
    }.items():
        own = dataclasses.replace(model, settings=dataclasses.replace(model.settings, **change))
        prior = own.masked(compute_dtype(config.precision))
        yield name, PriorSampler(prior, model.condition)


ACCURACY, DISTANCE = "masked/sample_class_accuracy_digits_svc", "masked/sample_frechet_digits_pixels"
SPEED = "samples_per_second"
COMPARE = (("compare", True),)


def drawn(metric: str, label: str, way: str = "", **change: float) -> Arm:
    """One way of drawing from the masked prior."""
    return Arm(label, f"{metric}_{way}" if way else metric, COMPARE, **change)


CLAIMS = [
    Claim(
        "8 parallel steps show the class as often as one step per token, up to three points",
        (drawn(ACCURACY, "16 steps, less 0.03", "step_per_token", offset=-0.03), drawn(ACCURACY, "8 steps")),
    ),
    Claim(
        "8 steps show the class more often than all tokens at once",
        (drawn(ACCURACY, "1 step", "1_step"), drawn(ACCURACY, "8 steps")),
    ),
    Claim(
        "keeping the most certain tokens shows the class more often than keeping random ones, in 4 steps",
        (
            drawn(ACCURACY, "random order", "4_steps_random"),
            drawn(ACCURACY, "most certain first", "4_steps"),
        ),
    ),
    Claim(
        "8 steps are nearer to real digits than all tokens at once (Frechet distance of pixels)",
        (drawn(DISTANCE, "1 step", "1_step"), drawn(DISTANCE, "8 steps")),
        relation="decreasing",
    ),
    Claim(
        "Halton's order is nearer to real digits than the most certain first, in 4 steps (Frechet distance)",
        (drawn(DISTANCE, "most certain first", "4_steps"), drawn(DISTANCE, "Halton", "4_steps_halton")),
        relation="decreasing",
    ),
    Claim(
        "on CPU, in batches of 64, 8 masked steps draw more images a second than 16 cached ones",
        (
            Arm("autoregressive", f"autoregressive/{SPEED}", COMPARE),
            Arm("masked", f"masked/{SPEED}", COMPARE),
        ),
    ),
]

if __name__ == "__main__":
    cli.main("maskgit", PRESETS, stages, CLAIMS, __doc__)
