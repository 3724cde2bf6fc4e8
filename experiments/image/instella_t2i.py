"""Instella-T2I: an image as 128 tokens of bits, and two text-to-image priors on them (arXiv 2506.21022).

A ViT with learned queries turns an image into N tokens of n independent bits; a bit-flip diffusion prior and
an autoregressive prior learn those bits under a caption.

    python experiments/image/instella_t2i.py                          # tiny: 8x8 digits, 2 CPU cores, minutes
    python experiments/image/instella_t2i.py sample --captions "a handwritten seven" --prior autoregressive
    python experiments/image/instella_t2i.py verify                   # the paper's claims in miniature
    python experiments/image/instella_t2i.py --preset shapes          # 32x32 captioned shapes
    python experiments/image/instella_t2i.py --preset cifar10 --data.path train.parquet
    python experiments/image/instella_t2i.py --preset bae-1024 --data:folder --data.path images

What `tiny` shows on held-out digits is in the README, with what was measured. `cifar10` for ten minutes on
two CPU cores (5,000 of its 6,000 tokenizer steps at batch 32, 512 bits per image): smooth-L1 0.73 -> 0.11,
20.6 dB on held-out images, which can be recognised; its priors take hours. The published sizes need an
accelerator; nothing was trained at those sizes here.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.folder import ImageFolder
from jaxtok.data.parquet import ParquetImages
from jaxtok.data.shapes import Shapes
from jaxtok.losses.discriminators import PatchGAN
from jaxtok.quantize.vq import VQConfig
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samplers import IndependentSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import TokenizerAndPrior
from jaxtok.run.stages import prior_stage, tokenizer_stage
from jaxtok.run.sweep.space import Range
from jaxtok.systems.image.instella_t2i import PRIORS, InstellaT2I
from jaxtok.systems.objectives import (
    IndependentEstimator,
    TokenizerWeights,
    objective_for,
)
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import TOKENIZER_RULES
from jaxtok.train.stage import Stage, StageCodes
from jaxtok.train.streaming_estimator import streaming_estimator


@dataclass(frozen=True, kw_only=True)
class Config(TokenizerAndPrior):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
      weights: of the tokenizer's loss.
      baseline_steps: batches that the baselines of independent bits count, of all images and of each class.
      classes: number of classes in the labels, 0 for none.
    """

    model: InstellaT2I
    weights: TokenizerWeights = TokenizerWeights()
    baseline_steps: int = 24
    classes: int = 0


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64, text_length=24),
    model=InstellaT2I.tiny(),
    tokenizer=TrainConfig.brief(600, 2e-3),
    prior=TrainConfig.brief(600, 1e-3),
    classes=10,
    scorer="digits",
)

PRESETS = {
    "tiny": TINY,
    "shapes": Config(
        data=Shapes(image_sizes=(32,), channels=3, batch_size=128, text_length=72),
        model=InstellaT2I.small(text_length=72),
        tokenizer=TrainConfig(steps=20_000, learning_rate=5e-4, warmup_steps=500),
        prior=TrainConfig(steps=30_000, learning_rate=3e-4, warmup_steps=500),
        scorer="shapes",
    ),
    "cifar10": Config(
        data=ParquetImages(
            image_sizes=(32,), channels=3, batch_size=32, text_length=48, flip=True, held_out=1000
        ),
        model=InstellaT2I.shallow(text_length=48),
        tokenizer=TrainConfig.brief(6_000, 2e-3),
        prior=TrainConfig(steps=30_000, learning_rate=3e-4, warmup_steps=500),
        classes=10,
    ),
    # The paper's sizes and the recipe of the released priors; weights of the tokenizer's loss are not
    # published.
    "bae-1024": Config(
        data=ImageFolder(
            image_sizes=(512, 768, 1024),
            channels=3,
            batch_size=256,
            text_length=128,
            crop="random_resized",
        ),
        model=InstellaT2I.bae_1024(),
        tokenizer=TrainConfig(steps=500_000, learning_rate=1e-4, warmup_steps=1000, schedule="constant"),
        prior=TrainConfig(
            steps=2_000_000,
            learning_rate=1e-4,
            warmup_steps=1000,
            schedule="constant",
            weight_decay=0.0,
            betas=(0.9, 0.999),
            ema_decay=0.0,
        ),
    ),
}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer, baselines of independent bits, diffusion prior, autoregressive prior."""
    model, dtype, scorer = config.model, compute_dtype(config.precision), scorer_named(config.scorer)
    data = dataclasses.replace(config.data, text_model=model.text.path)
    yield tokenizer_stage(
        dataclasses.replace(config, data=data),
        model.tokenizer(dtype),
        TokenizerEvaluator(model, scorer),
        PatchGAN.of_size(min(data.image_sizes)),
        "decoder/pixels/kernel",
        TOKENIZER_RULES,
        objective=objective_for(model.quantizer),
    )

    # With classes a few captions are drawn often; without, many captions once.
    captions, per_caption = (config.classes, 50) if config.classes else (200, 1)
    look = SampleEvaluator(model, data, scorer, captions, per_caption)
    read = {"data": data, "frozen": ("tokenizer",), "codes": StageCodes(model.space, model.tokens)}
    sampler = IndependentSampler(model.space)
    for name, classes in (("independent", 1), ("independent_by_class", config.classes)):
        if classes:
            estimator = IndependentEstimator(model.space, model.tokens, classes, model.encode)
            evaluator = dataclasses.replace(look, sampler=sampler, objective=estimator)
            named = {"classes": 0 if classes == 1 else classes, "null_class": False}
            yield Stage(
                name,
                streaming_estimator(estimator),
                steps=config.baseline_steps,
                evaluator=evaluator,
                **read,
                **named,
            )
    networks = model.networks(dtype)
    for name in model.priors:
        prior = model.prior_named(name, dtype)
        yield prior_stage(name, prior, model, data, config.prior, look, networks=networks)


# The comparison with one codebook.
CODES = VQConfig(codes=256, code_width=8, learning="ema", decay=0.95, revive_below=0.1)
ACCURACY = "sample_class_accuracy_digits_svc"
CLAIMS = [
    Claim(
        "16 bits per token reconstruct better than one of 256 codes, at equal token count (PSNR, dB)",
        (
            Arm("one of 256 codes", "tokenizer/psnr_uint8", (("model.quantizer", CODES),)),
            Arm("16 bits", "tokenizer/psnr_uint8"),
        ),
        margin=2.0,
    ),
    Claim(
        "more bits per token, higher PSNR (dB)",
        tuple(
            Arm(f"model.bits={bits}", "tokenizer/psnr_uint8", (("model.quantizer.bits", bits),))
            for bits in (4, 8, 16)
        ),
    ),
    *(
        Claim(
            f"the {name} prior beats independent bits (class accuracy of samples)",
            (Arm("independent bits", f"independent/{ACCURACY}"), Arm(name, f"{name}/{ACCURACY}_w3")),
        )
        for name in PRIORS
    ),
    # Class accuracy does not see whether bits fit together: independent bits of each class score well in it.
    Claim(
        "the autoregressive prior knows more than the marginals of each class (nats per bit, held out)",
        (
            Arm("independent bits of each class", "independent_by_class/nll_nats_per_slot"),
            Arm("autoregressive", "autoregressive/nll_nats_per_slot"),
        ),
        relation="decreasing",
    ),
    *(
        Claim(
            f"guidance 3 raises the class accuracy of the {name} prior over guidance 0",
            (Arm("w = 0", f"{name}/{ACCURACY}_w0"), Arm("w = 3", f"{name}/{ACCURACY}_w3")),
        )
        for name in PRIORS
    ),
]

# What `sweep` tries where nothing is said.
SPACE = {
    "tokenizer.learning_rate": Range(3e-4, 1e-2, log=True),
    "prior.learning_rate": Range(1e-4, 5e-3, log=True),
}

if __name__ == "__main__":
    cli.main("instella_t2i", PRESETS, stages, CLAIMS, __doc__, space=SPACE)
