"""Codebook collapse: how much of an equal alphabet do quantizers use?

One tiny autoencoder of 8x8 patches of photographs, 1,024 codes in every arm, the same data and steps. Plain
VQ (a codebook learned by gradient, no tricks) moves only the codes that are chosen, so the others are never
chosen again. Moving averages with k-means and revival, cosine codes of 8 dimensions, SimVQ, FSQ and look-up
free quantization with an entropy term each claim to prevent it. Residual stacks of 64 codes show depth and
quantizer dropout. (arXiv 1711.00937, 2110.04627, 2411.02038, 2309.15505, 2310.05737, 2107.03312)

    python experiments/analysis/collapse.py                     # tiny: photographs, 2 CPU cores, five minutes
    python experiments/analysis/collapse.py verify              # three paired seeds, a quarter of an hour
    python experiments/analysis/collapse.py --preset large      # 4,096 codes, features of width 64
    python experiments/analysis/collapse.py --preset digits     # that on 8x8 digits: too few tokens to tell
    python experiments/analysis/collapse.py --only plain simvq  # some of the arms
    python experiments/analysis/collapse.py --model.quantizer:ibq --only plain own  # one more quantizer

Usage is a share of codes that occur, so the number of tokens bounds it. M tokens that took each of K codes
with equal probability would show 1 - (1 - 1/K)^M of them: 69 % for 4,096 codes and the 4,752 tokens of the
297 held-out digits (as 4x4 grids of 2x2 patches), too few to see whether 60 % are used; all of 1,024 codes
for the 32,768 tokens of 512 held-out crops of a photograph. That photograph shows another scene than those
trained on, so codes may be missing on it that are in use elsewhere; usage on 65,536 tokens of the training
photographs is measured beside it. In training a batch has 4,096 tokens, four per code; curves add up 10
batches.

The sizes of `tiny` (1,024 codes, width 16) were chosen on seed 7, which is not among the measured ones,
after those of `large`, the hypothesis' own, had left most codes unused. "Fewer than 10 %" and "more than 60
%" were the hypothesis before the first run, and whether they hold is shown either way. Patches are not
spread evenly, so a quantizer can be well and still leave codes of a fixed grid (FSQ) unused: that each uses
more of its codes than plain VQ is a claim of its own, added after that seed. The narrower the features, the
better SimVQ fares: its frozen directions are random, and in 64 dimensions the features, which lie in few of
them, meet few codes (preset `large`). What held is in `collapse.claims.json`.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtok import cli
from jaxtok.data.embedded import Digits, Photos
from jaxtok.data.image_data import ImageData
from jaxtok.run.claims import Arm, Claim
from jaxtok.run.evaluators.codes import CodeEvaluator, ComparisonEvaluator
from jaxtok.systems.analysis.collapse import DROPOUT, CodeCounter, Collapse
from jaxtok.systems.objectives import TokenizerWeights, objective_for
from jaxtok.systems.usage_history import UsageHistory
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.stage import Stage
from jaxtok.train.streaming_estimator import streaming_estimator

COMPARISON = "comparison"


@dataclass(frozen=True)
class Config:
    """Everything that decides what is computed.

    Attributes:
      data: images.
      model: sizes and quantizers.
      weights: of the loss.
      fit: how every arm is trained.
      window: batches that are counted together for the curves of usage.
      evaluation_images: held-out images that are measured.
      training_batches: batches of training data that are measured at the end.
    """

    data: ImageData
    model: Collapse
    weights: TokenizerWeights = TokenizerWeights(reconstruction="l2")
    fit: TrainConfig = TrainConfig(
        steps=400, learning_rate=5e-3, warmup_steps=50, weight_decay=0.0, ema_decay=0.0
    )
    window: int = 10
    evaluation_images: int = 512
    training_batches: int = 16


LARGE = Collapse(codes=4096, levels=(8, 8, 8, 8), width=64)
PRESETS = {
    "tiny": Config(Photos(image_sizes=(64,), channels=1, batch_size=64), Collapse()),
    "large": Config(Photos(image_sizes=(64,), channels=1, batch_size=64), LARGE),
    "digits": Config(
        Digits(image_sizes=(8,), channels=1, batch_size=256),
        dataclasses.replace(LARGE, image_size=8, patch=2),
    ),
}
MARK = 0.6  # usage that the hypothesis names


def stages(config: Config) -> Iterator[Stage]:
    """Every quantizer in the same autoencoder, then all of them side by side."""
    model, data = config.model, config.data
    for name in model.arms:
        arm = model.arm(name)
        objective = objective_for(model.quantizer_of(name))(arm.tokenizer(), config.weights)
        history = UsageHistory(objective, config.window, max(1, config.fit.steps // config.window))
        evaluator = CodeEvaluator(arm, config.evaluation_images)
        yield Stage(name, gradient(history, config.fit), data, config.fit.steps, evaluator=evaluator)

    models = tuple((name, model.arm(name)) for name in model.single)
    stacks = tuple((name, model.arm(name)) for name in model.residual)
    tokens = config.window * data.batch_size * model.tokens
    evaluator = ComparisonEvaluator(models, stacks, config.evaluation_images, tokens, MARK)
    yield Stage(
        COMPARISON,
        streaming_estimator(CodeCounter(models)),
        data,
        config.training_batches,
        frozen=model.arms,
        evaluator=evaluator,
    )


TRICKS = {
    "revived": "moving averages, k-means and revival",
    "cosine": "cosine codes of 8 dimensions",
    "simvq": "SimVQ",
    "fsq": "FSQ",
    "lfq": "LFQ with entropy",
}
DEPTHS = Collapse().depths
CLAIMS = [
    Claim(
        "plain VQ collapses: fewer than 10 % of the codes occur on held-out data",
        (Arm("plain", "plain/code_usage"), Arm("hypothesis", constant=0.1)),
    ),
    *(
        Claim(
            f"{words}: more than 60 % of the codes occur on {where}",
            (Arm("hypothesis", constant=MARK), Arm(name, metric)),
        )
        for name, words in TRICKS.items()
        for where, metric in (
            ("held-out data", f"{name}/code_usage"),
            ("training data", f"{COMPARISON}/training_usage_{name}"),
        )
    ),
    *(
        Claim(
            f"{words}: more of the codes occur than of plain VQ (held out)",
            (Arm("plain", "plain/code_usage"), Arm(name, f"{name}/code_usage")),
        )
        for name, words in TRICKS.items()
    ),
    *(
        Claim(
            f"{words}: smaller error than plain VQ (MSE, held out)",
            (Arm("plain", "plain/mse"), Arm(name, f"{name}/mse")),
            relation="decreasing",
        )
        for name, words in TRICKS.items()
    ),
    Claim(
        "the entropy of the batch in the loss raises the perplexity of LFQ's codes (held out)",
        (Arm("without", "lfq_no_diversity/code_perplexity"), Arm("with", "lfq/code_perplexity")),
    ),
    Claim(
        "deeper residual stacks, smaller error (MSE, held out)",
        tuple(Arm(f"depth {depth}", f"rvq_{depth}/mse") for depth in DEPTHS),
        relation="decreasing",
    ),
    Claim(
        "trained with quantizer dropout, every further depth that is decoded helps (PSNR, dB, held out)",
        tuple(Arm(f"{i} of {DEPTHS[-1]}", f"{DROPOUT}/psnr_prefix_{i}") for i in range(1, DEPTHS[-1] + 1)),
    ),
]

# There is no one tokenizer to sample, encode or decode with.
VERBS = ("train", "evaluate", "verify")

if __name__ == "__main__":
    cli.main("collapse", PRESETS, stages, CLAIMS, __doc__, verbs=VERBS)
