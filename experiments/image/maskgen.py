"""MaskGen: text to image by masked prediction of few tokens, which a decoder that reads the caption completes
(arXiv 2501.07730).

TA-TiTok makes tokens of an image and images of tokens and caption. A transformer of two streams, tokens and
text, learns to fill in masked tokens; there are two kinds of it, over codes and over continuous latents, of
which a small network denoises one token at a time.

    python experiments/image/maskgen.py                             # tiny: 8x8 digits, 2 CPU cores, minutes
    python experiments/image/maskgen.py --preset tiny-kl            # the same over continuous latents
    python experiments/image/maskgen.py sample --prior masked --captions "a handwritten seven"
    python experiments/image/maskgen.py verify                      # claims in miniature
    python experiments/image/maskgen.py plan --preset vq-l --topology v5e:8x8

In the tiny presets the captions' bytes go through small encoders that are trained along. The published sizes
read a frozen CLIP ViT-L/14-336, whose folder is --model.generator.text.path and --data.text-model (with the
`tokenizer.json` of the checkpoint). They reach an FID of 7.74 (VQ-L), 7.51 (VQ-XL), 7.24 (KL-L) and 6.53
(KL-XL) on MJHQ-30K, and 0.52 to 0.57 on GenEval. They need an accelerator, and nothing was trained at those
sizes here. Their recipes are the official ones but for these things: one stage of training in place of two,
batches of 2048 images, a learning rate over codes that falls to zero and not to 1e-5, a score of 6.5 for
every image, means in place of draws of the Gaussian latents, and tokenizers whose perceptual network is off
until its weights are given. The released weights load with `jaxtok.convert` ("maskgen", "tatitok").
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxtok import cli
from jaxtok.data.embedded import Digits
from jaxtok.data.webdataset import WebDatasetImages
from jaxtok.losses.discriminators import BlurGAN
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.reconstructions import TokenizerEvaluator
from jaxtok.run.evaluators.samplers import OtherCaptions, PriorSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.evaluators.scorers import scorer_named
from jaxtok.run.recipes import TokenizerAndPrior
from jaxtok.run.stages import prior_stage, tokenizer_stage
from jaxtok.systems.image.maskgen import SIZES, MaskGen
from jaxtok.systems.objectives import TokenizerWeights, objective_for
from jaxtok.train.adversarial import DiscriminatorWeights
from jaxtok.train.precision import compute_dtype
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import TIED_RULES, TOKENIZER_RULES
from jaxtok.train.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Config(TokenizerAndPrior):
    """Everything that decides what is computed.

    Attributes:
      model: sizes.
    """

    model: MaskGen


TINY = Config(
    data=Digits(image_sizes=(8,), channels=1, batch_size=64, text_length=20),
    model=MaskGen.tiny(),
    tokenizer=TrainConfig(steps=600, learning_rate=2e-3, warmup_steps=50, ema_decay=0.98),
    prior=TrainConfig(steps=300, learning_rate=2e-3, warmup_steps=50, ema_decay=0.98),
    scorer="digits",
)


def published(name: str) -> Config:
    """The recipe of a published size."""
    model = MaskGen.published(name)
    generator = replace(model.generator, remat="dots" if name.endswith("-l") else "full")
    prior = TrainConfig(
        steps=500_000, learning_rate=4e-4, warmup_steps=10_000, weight_decay=0.03, betas=(0.9, 0.96)
    )
    if generator.kind == "kl":
        prior = TrainConfig(
            steps=1_000_000,
            learning_rate=1e-4,
            schedule="constant",
            warmup_steps=50_000,
            weight_decay=0.02,
            betas=(0.9, 0.95),
        )
    return Config(
        data=WebDatasetImages(
            image_sizes=(256,),
            channels=3,
            batch_size=2048,
            text_length=generator.text.length,
            crop="random",
            flip=True,
        ),
        model=replace(model, generator=generator),
        # Pixels span 2 here and 1 in the official code, so its squares are a quarter of ours.
        weights=TokenizerWeights("l2", reconstruction_weight=0.25),
        discriminator=DiscriminatorWeights(weight=0.1, start=200_000, lecam_weight=0.001, adaptive_limit=0.0),
        tokenizer=TrainConfig(
            steps=650_000, learning_rate=1e-4, warmup_steps=10_000, betas=(0.9, 0.999), weight_decay=1e-4
        ),
        prior=prior,
    )


PRESETS = {
    "tiny": TINY,
    "tiny-kl": replace(TINY, model=MaskGen.tiny_kl()),
    **{name: published(name) for name in SIZES},
}


def stages(config: Config) -> Iterator[Stage]:
    """The tokenizer, the generator."""
    model, dtype, scorer = config.model, compute_dtype(config.precision), scorer_named(config.scorer)
    networks: dict[str, Any] = {**model.networks(dtype)}
    reads = model.codec.text_length > 0
    text = model.decoder_condition if reads else None
    yield tokenizer_stage(
        config,
        model.tokenizer(dtype),
        TokenizerEvaluator(model, scorer),
        BlurGAN.of_size(min(config.data.image_sizes)),
        "decoder/smooth/kernel",
        TOKENIZER_RULES,
        objective=functools.partial(objective_for(model.codec.quantizer), text=text),
        networks=networks if reads else {},
    )
    prior = model.prior_named("masked", dtype)
    others = (("other_captions", OtherCaptions(PriorSampler(prior, model.condition))),) if scorer else ()
    evaluator = SampleEvaluator(model, config.data, scorer, 10, 20 if scorer else 1, others=others)
    yield prior_stage(
        "masked",
        prior,
        model,
        config.data,
        config.prior,
        evaluator,
        grouping=model.grouping,
        networks=networks,
        rules=TIED_RULES,
    )


# All without the caption in the decoder: there it would say which digit it is, whatever the tokens are.
ACCURACY = "masked/sample_class_accuracy_digits_svc"
NO_TEXT = ("model.codec.text_length", 0)
CLAIMS = [
    Claim(
        "tokens drawn for a caption show its digit more often than tokens drawn for other captions",
        (
            Arm("other captions", f"{ACCURACY}_other_captions", (NO_TEXT,)),
            Arm("the caption", f"{ACCURACY}_w3", (NO_TEXT,)),
        ),
    ),
    Claim(
        "guidance raises that accuracy",
        (Arm("w = 0", f"{ACCURACY}_w0", (NO_TEXT,)), Arm("w = 3", f"{ACCURACY}_w3", (NO_TEXT,))),
    ),
]

if __name__ == "__main__":
    cli.main("maskgen", PRESETS, stages, CLAIMS, __doc__)
