"""What the configurations of image experiments have in common, documented once."""

from dataclasses import dataclass
from typing import Literal

from jaxtok.data.image_data import ImageData
from jaxtok.losses.perceptual import PerceptualNetwork
from jaxtok.systems.objectives import TokenizerWeights
from jaxtok.train.adversarial import DiscriminatorWeights
from jaxtok.train.precision import Precision
from jaxtok.train.schedules import TrainConfig

ScorerName = Literal["digits", "digits_frechet", "shapes", "none"]


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """An experiment that trains a tokenizer; one adds its `model`.

    Attributes:
      data: images, with what they are conditioned on.
      tokenizer: how the tokenizer is trained.
      scorer: what says whether reconstructions and samples show what they should.
      precision: of the computation; parameters, norms, quantizers and losses are always float32. "auto" is
        bfloat16 on accelerators.
    """

    data: ImageData
    tokenizer: TrainConfig = TrainConfig()
    scorer: ScorerName = "none"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class ReconstructionRecipe(TokenizerRecipe):
    """One whose tokenizer is trained by reconstruction, with a frozen network and a discriminator.

    Attributes:
      weights: of the tokenizer's loss.
      perceptual: which frozen network compares images, where its weight is not 0.
      discriminator: of the tokenizer; off where its weight is 0.
    """

    weights: TokenizerWeights = TokenizerWeights("l2")
    perceptual: PerceptualNetwork = PerceptualNetwork()
    discriminator: DiscriminatorWeights = DiscriminatorWeights()


@dataclass(frozen=True, kw_only=True)
class PriorRecipe(TokenizerRecipe):
    """One that trains priors on the tokenizer's latents.

    Attributes:
      prior: how each prior is trained.
    """

    prior: TrainConfig = TrainConfig()


@dataclass(frozen=True, kw_only=True)
class TokenizerAndPrior(ReconstructionRecipe, PriorRecipe):
    """Both."""
