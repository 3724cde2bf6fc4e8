"""LlamaGen: a convolutional tokenizer and a plain language model of its codes (arXiv 2406.06525).

A VQGAN turns an image into a grid of codes, which are compared in 8 channels and with unit length; a Llama
predicts them one after another, row by row, after a token of the class.

    python experiments/image/llamagen.py                             # tiny: 8x8 digits, 2 CPU cores, minutes
    python experiments/image/llamagen.py sample --captions 3 7 --prior autoregressive
    python experiments/image/llamagen.py verify                      # claims in miniature
    python experiments/image/llamagen.py plan --preset b --topology v5e:8x8
    python experiments/image/llamagen.py --preset b --data:folder --data.path images

The language model of `tiny` is a modest one: with guidance 3, 59% of its samples show their class (mean of
three seeds). Those of independent codes of each class do more often; it is a little better in likelihood.

The published sizes need an accelerator, and nothing was trained at those sizes here. Their recipes are the
official ones but for these things: the language model trains without its dropout of 0.1 and on codes that are
made anew, flipped and cropped; the perceptual network is off until its weights are given (--perceptual.kind
lpips --perceptual.paths vgg16.safetensors lpips_linear.safetensors --weights.perceptual-weight 1); the
discriminator normalises groups and not batches. At 384 px: --model.image-size 384 --data.image-sizes 384.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.folder import ImageFolder
from jaxtok.losses.discriminators import PatchGAN
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samplers import IndependentSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import TokenizerAndPrior
from jaxtok.run.stages import prior_stage, tokenizer_stage
from jaxtok.systems.image.llamagen import LlamaGen
from jaxtok.systems.objectives import (
    IndependentEstimator,
    objective_for,
)
from jaxtok.train.adversarial import DiscriminatorWeights
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import CODEBOOK_RULES
from jaxtok.train.stage import Stage, StageCodes
from jaxtok.train.streaming_estimator import streaming_estimator


@dataclass(frozen=True, kw_only=True)
class Config(TokenizerAndPrior):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
      baseline_steps: batches that the baseline of independent codes of each class counts.
    """

    model: LlamaGen
    baseline_steps: int = 24


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64),
    model=LlamaGen.tiny(),
    tokenizer=TrainConfig.brief(600, 2e-3),
    # Longer, this language model learns the 1,500 digits completely: 600 steps were worse on held-out ones.
    prior=TrainConfig.brief(250, 1e-3),
    scorer="digits",
)


def published(size: str) -> Config:
    """The official recipe of a language model over VQ-16 at 256 px."""
    model = LlamaGen.c2i(size)
    half = lambda shape: dataclasses.replace(shape, remat=True)
    deep = dataclasses.replace(model.prior, remat="none" if size == "B" else "dots")
    return Config(
        data=ImageFolder(image_sizes=(256,), channels=3, batch_size=256, flip=True, crop="random_resized"),
        model=dataclasses.replace(
            model, encoder=half(model.encoder), decoder=half(model.decoder), prior=deep
        ),
        discriminator=DiscriminatorWeights(weight=0.5, start=20_000, adaptive_limit=0.0),
        tokenizer=TrainConfig.constant(400_000),
        prior=TrainConfig.constant(1_500_000),
    )


PRESETS = {"tiny": TINY, **{size.lower(): published(size) for size in ("B", "L", "XL", "XXL", "3B")}}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer, baseline of independent codes, language model."""
    model, dtype, scorer = config.model, compute_dtype(config.precision), scorer_named(config.scorer)
    discriminator, evaluator = (
        PatchGAN.of_size(min(config.data.image_sizes)),
        TokenizerEvaluator(model, scorer),
    )
    yield tokenizer_stage(
        config,
        model.tokenizer(dtype),
        evaluator,
        discriminator,
        "decoder/conv_out/kernel",
        CODEBOOK_RULES,
        objective=objective_for(model.quantizer),
    )
    look = SampleEvaluator(model, config.data, scorer, model.classes if scorer else 200, 50 if scorer else 1)
    if scorer:
        estimator = IndependentEstimator(model.space, model.tokens, model.classes, model.encode)
        sampler = IndependentSampler(model.space)
        evaluator = dataclasses.replace(look, sampler=sampler, objective=estimator)
        yield Stage(
            "independent_by_class",
            streaming_estimator(estimator),
            config.data,
            config.baseline_steps,
            frozen=("tokenizer",),
            evaluator=evaluator,
            codes=StageCodes(model.space, model.tokens),
            classes=model.classes,
            null_class=False,
        )
    prior = model.autoregressive(dtype)
    yield prior_stage("autoregressive", prior, model, config.data, config.prior, look)


ACCURACY = "sample_class_accuracy_digits_svc"
WIDE = (
    ("model.quantizer.code_width", TINY.model.encoder.features),
    ("model.quantizer.metric", "euclidean"),
)
CLAIMS = [
    Claim(
        "codes of few channels and unit length are used more than codes of all channels (perplexity)",
        (
            Arm("all channels, any length", "tokenizer/code_perplexity", WIDE),
            Arm("8 channels, unit length", "tokenizer/code_perplexity"),
        ),
    ),
    Claim(
        "the language model knows more than the marginals of each class (nats per code, held out)",
        (
            Arm("independent codes of each class", "independent_by_class/nll_nats_per_slot"),
            Arm("language model", "autoregressive/nll_nats_per_slot"),
        ),
        relation="decreasing",
    ),
    Claim(
        "guidance 3 raises the class accuracy of samples over guidance 0",
        (
            Arm("w = 0", f"autoregressive/{ACCURACY}_w0"),
            Arm("w = 3", f"autoregressive/{ACCURACY}_w3"),
        ),
    ),
]

if __name__ == "__main__":
    cli.main("llamagen", PRESETS, stages, CLAIMS, __doc__)
