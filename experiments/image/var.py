"""VAR: an image as scales of codes, predicted a whole scale at a time (arXiv 2404.02905).

A convolutional tokenizer codes an image coarse to fine, every scale what the coarser ones left; a transformer
predicts all tokens of a scale at once from the sum of the scales before it. Of K scales an image takes K
steps, where a plain grid of codes takes one per cell.

    python experiments/image/var.py                             # tiny: 8x8 digits, 2 CPU cores, minutes
    python experiments/image/var.py sample --captions 3 7 --prior next_scale
    python experiments/image/var.py verify                      # claims in miniature
    python experiments/image/var.py --model.scales 4            # a plain grid, next-token prior of that size
    python experiments/image/var.py plan --preset d30 --topology v5e:8x8 --mesh.data 4 --mesh.fsdp 16

The next-token prior of a single scale has the depth and width of the other and about as many parameters (3%
fewer), but has the class as its first token, as in LlamaGen, where a next-scale prior is modulated by it.
So the comparison is one of the two systems, not of the order of tokens alone. d30 trains in 6.1 GB per chip
with the mesh above (global batch 768).

The published sizes need an accelerator, and nothing was trained at those sizes here. The recipe of the
transformer is the official one but for these things: the rate falls linearly from the start, to zero; weight
decay stays at 0.05, which falls to 0 there; codes are made anew, of flipped crops. The recipe of the
tokenizer was not published: what is here is LlamaGen's, with VAR's sizes. A perceptual network needs its
weights, as in `experiments/image/llamagen.py`.
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
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import TokenizerAndPrior
from jaxtok.run.stages import prior_stage, tokenizer_stage
from jaxtok.systems.image.var import SIZES, VAR
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
    """

    model: VAR


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64),
    model=VAR.tiny(),
    tokenizer=TrainConfig.brief(400, 2e-3),
    prior=TrainConfig.brief(250, 1e-3),
    scorer="digits",
)


def published(size: str) -> Config:
    """The official recipe of a transformer, and its tokenizer's sizes."""
    model = VAR.published(size)
    half = lambda shape: dataclasses.replace(shape, remat=True)
    deep = dataclasses.replace(model.prior, remat="full" if size in ("d30", "d36") else "dots")
    pixels = model.image_size
    return Config(
        data=ImageFolder(image_sizes=(pixels,), channels=3, batch_size=768, flip=True, crop="random_resized"),
        model=dataclasses.replace(
            model, encoder=half(model.encoder), decoder=half(model.decoder), prior=deep
        ),
        discriminator=DiscriminatorWeights(weight=0.5, start=20_000, adaptive_limit=0.0),
        tokenizer=TrainConfig.constant(400_000),
        prior=TrainConfig(
            steps=417_000,
            learning_rate=3e-4,
            schedule="linear",
            warmup_steps=2_000,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            clip_norm=2.0,
            ema_decay=0.0,
        ),
    )


PRESETS = {"tiny": TINY, **{size: published(size) for size in SIZES}}


def stages(config: Config) -> Iterator[Stage]:
    """Tokenizer; then the prior "next_scale", or "raster" where there is but one scale."""
    model, dtype, scorer = config.model, compute_dtype(config.precision), scorer_named(config.scorer)
    discriminator, evaluator = (
        PatchGAN.of_size(min(config.data.image_sizes)),
        TokenizerEvaluator(model, scorer),
    )
    yield tokenizer_stage(
        config, model.tokenizer(dtype), evaluator, discriminator, "decoder/conv_out/kernel", CODEBOOK_RULES
    )
    look = SampleEvaluator(model, config.data, scorer, model.classes if scorer else 200, 50 if scorer else 1)
    for name in model.priors:
        yield prior_stage(name, model.prior_named(name, dtype), model, config.data, config.prior, look)


GUIDED = f"_w{TINY.model.settings.guidance:g}"
ACCURACY, SPEED = f"sample_class_accuracy_digits_svc{GUIDED}", f"samples_per_second{GUIDED}"
RASTER = (("model.scales", TINY.model.scales[-1:]),)
CLAIMS = [
    Claim(
        "3 next-scale steps show the class as often as 16 raster steps, up to five points",
        (
            Arm("raster, less 0.05", f"raster/{ACCURACY}", RASTER, offset=-0.05),
            Arm("next scale", f"next_scale/{ACCURACY}"),
        ),
    ),
    Claim(
        "3 next-scale steps draw more images a second than 16 raster steps",
        (Arm("raster", f"raster/{SPEED}", RASTER), Arm("next scale", f"next_scale/{SPEED}")),
    ),
    Claim(
        "3 next-scale steps draw more than three times as many images a second as 16 raster steps",
        (
            Arm("raster, times 3", f"raster/{SPEED}", RASTER, factor=3.0),
            Arm("next scale", f"next_scale/{SPEED}"),
        ),
    ),
    Claim(
        "guidance raises the class accuracy of samples over none",
        (
            Arm("w = 0", "next_scale/sample_class_accuracy_digits_svc_w0"),
            Arm("guided", f"next_scale/{ACCURACY}"),
        ),
    ),
]

if __name__ == "__main__":
    cli.main("var", PRESETS, stages, CLAIMS, __doc__)
