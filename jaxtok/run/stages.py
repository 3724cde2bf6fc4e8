"""Stages that experiments share: a tokenizer, and a prior over its codes."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn

from jaxtok.codes import Regrouping
from jaxtok.data.dataset import Dataset
from jaxtok.priors.contract import Prior
from jaxtok.run.evaluators.samplers import PriorSampler
from jaxtok.run.evaluators.samples import SampleEvaluator
from jaxtok.run.recipes import ReconstructionRecipe
from jaxtok.systems.contract import System
from jaxtok.systems.objectives import PriorObjective, TokenizerObjective
from jaxtok.train.adversarial import adversarial
from jaxtok.train.gradient import gradient
from jaxtok.train.schedules import TrainConfig
from jaxtok.train.sharding import PRIOR_RULES, Rule
from jaxtok.train.stage import Evaluator, Stage, StageCodes, Variables


def tokenizer_stage(
    recipe: ReconstructionRecipe,
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


def _codes(system: System, data: Dataset) -> StageCodes | None:
    """What a prior can read from token files; None where the system makes no codes."""
    if not system.has_tokenizer or system.space is None or system.modality is None:
        return None
    field = data.fields().get(system.modality.key)
    lengths = field is not None and field.pad == "length"
    return StageCodes(system.space, system.tokens, lengths=lengths)


def prior_stage(
    name: str,
    prior: Prior,
    system: System,
    data: Dataset,
    fit: TrainConfig,
    evaluator: SampleEvaluator,
    *,
    grouping: Regrouping | None = None,
    networks: Mapping[str, Callable[[], Variables]] | None = None,
    rules: tuple[Rule, ...] = PRIOR_RULES,
) -> Stage:
    """The stage of a prior over the codes of the stage "tokenizer".

    Args:
      name: of the stage.
      prior: what is trained.
      system: its condition, frozen networks and codec are read.
      data: what is encoded, and what it is conditioned on.
      fit: how it is trained.
      evaluator: how it is measured and drawn; sampler and objective are put in here.
      grouping: how the prior joins the slots of the tokenizer's codes; None for not at all.
      networks: frozen networks that conditions need; default the system's.
      rules: how its parameters are split over the mesh.

    Raises:
      ValueError: examples have lengths, and the prior's network would attend to their padding.
    """
    codes = _codes(system, data)
    if codes is not None and codes.lengths and not prior.takes_lengths:
        raise ValueError(
            f"stage {name!r}: examples have lengths, and {type(prior.network).__name__} would attend to "
            "their padding; choose another prior, or cut the data to one length"
        )
    objective = PriorObjective(
        prior, system.encode, system.condition, codec=system.prior_codec, grouping=grouping
    )
    sampler = PriorSampler(prior, system.condition, codec=system.prior_codec)
    classes, null_class = system.label_reading()
    return Stage(
        name,
        gradient(objective, fit),
        data,
        fit.steps,
        frozen=("tokenizer",) if system.has_tokenizer else (),
        networks=system.networks() if networks is None else networks,
        rules=rules,
        evaluator=dataclasses.replace(evaluator, sampler=sampler, objective=objective),
        codes=codes,
        classes=classes,
        null_class=null_class,
    )
