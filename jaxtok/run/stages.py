"""Stages that image experiments share: a tokenizer trained on images, and a prior that is told classes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.data.config import Data
from jaxtok.losses.perceptual import PerceptualNetwork
from jaxtok.priors.contract import Codec, Prior
from jaxtok.run.evaluators.samplers import PriorSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.systems.objectives import PriorObjective, TokenizerObjective, TokenizerWeights
from jaxtok.train.adversarial import DiscriminatorWeights, adversarial
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import PRIOR_RULES, Rule
from jaxtok.train.stage import Evaluator, Stage, StageCodes, Variables


@runtime_checkable
class TokenizerRecipe(Protocol):
    """What the configuration of an experiment says about its tokenizer's training."""

    @property
    def data(self) -> Data:
        """Images."""
        ...

    @property
    def weights(self) -> TokenizerWeights:
        """Of the terms of the loss."""
        ...

    @property
    def perceptual(self) -> PerceptualNetwork:
        """Which frozen network compares images, where its weight is not 0."""
        ...

    @property
    def discriminator(self) -> DiscriminatorWeights:
        """Of the discriminator; off where its weight is 0."""
        ...

    @property
    def tokenizer(self) -> TrainConfig:
        """How the tokenizer is trained."""
        ...


def tokenizer_stage(
    recipe: TokenizerRecipe,
    tokenizer: nn.Module,
    evaluator: Evaluator,
    discriminator: nn.Module,
    last_layer: str,
    rules: tuple[Rule, ...],
    *,
    objective: Callable[..., TokenizerObjective] = TokenizerObjective,
    networks: Mapping[str, Callable[[], Variables]] | None = None,
    frozen: tuple[str, ...] = (),
) -> Stage:
    """The stage "tokenizer", with a perceptual network and a discriminator where they have weight.

    Args:
      recipe: how it is trained, on what.
      tokenizer: returns a `Reconstruction`.
      evaluator: how it is measured and drawn.
      discriminator: images -> logits.
      last_layer: path of the decoder's last kernel, at which the adaptive weight compares gradients.
      rules: how its parameters are split over the mesh.
      objective: `(tokenizer, weights, perceptual=...) -> TokenizerObjective`.
      networks: frozen networks beside the perceptual one, see `Stage`.
      frozen: names of earlier stages that it reads.
    """
    networks, perceptual = dict(networks or {}), None
    if recipe.weights.perceptual_weight:
        perceptual, networks["perceptual"] = recipe.perceptual, recipe.perceptual.variables
    minimised, fit = objective(tokenizer, recipe.weights, perceptual=perceptual), recipe.tokenizer
    update = gradient(minimised, fit)
    if recipe.discriminator.weight:
        update = adversarial(minimised, fit, discriminator, recipe.discriminator, last_layer)
    return Stage("tokenizer", update, recipe.data, fit.steps, frozen, networks, rules, evaluator)


@runtime_checkable
class ClassModel(Protocol):
    """An image system whose priors are told a class."""

    def encode(self, variables: Any, images: Any) -> Any:
        """Images to codes."""
        ...

    def batch_condition(self, batch: Any, frozen: Any) -> Any:
        """What a batch says its images are."""
        ...

    def class_condition(self, labels: Any) -> Any:
        """Condition of labels; None where the prior reads none."""
        ...

    @property
    def classes(self) -> int:
        """How many."""
        ...


def class_prior_stage(
    name: str,
    prior: Prior,
    model: ClassModel,
    data: Data,
    fit: TrainConfig,
    evaluator: SampleEvaluator,
    codec: Callable[[Variables], Codec] | None = None,
) -> Stage:
    """The stage of a prior over the codes of the stage "tokenizer" that is told classes.

    Args:
      name: of the stage.
      prior: what is trained.
      model: the system.
      data: images and their classes.
      fit: how it is trained.
      evaluator: how it is measured and drawn; sampler and objective are put in here.
      codec: `(frozen variables of the tokenizer) -> Codec`, for priors that need one.
    """
    objective = PriorObjective(prior, model.encode, model.batch_condition, codec=codec)
    sampler = PriorSampler(prior, model.class_condition, classes=True, codec=codec)
    condition = jax.eval_shape(model.class_condition, jax.ShapeDtypeStruct((1,), jnp.int32))
    return Stage(
        name,
        gradient(objective, fit),
        data,
        fit.steps,
        frozen=("tokenizer",),
        rules=PRIOR_RULES,
        evaluator=dataclasses.replace(evaluator, sampler=sampler, objective=objective),
        codes=StageCodes(prior.space, prior.tokens),
        classes=0 if condition is None else model.classes,
        null_class=condition is not None and condition.null is not None,
    )
