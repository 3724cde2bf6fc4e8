"""What a tokenizer with a flow decoder minimises."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok import keys as random
from jaxtok.losses.alignment import alignment_loss
from jaxtok.losses.flow import TimeDistribution, flow_loss, flow_point, flow_times
from jaxtok.losses.terms import Terms
from jaxtok.quantize.health import health
from jaxtok.systems.objectives import Batch, Variables


@dataclasses.dataclass(frozen=True)
class FlowWeights:
    """Weights and settings of a flow tokenizer's loss.

    Attributes:
      times: distribution of the times, see `flow_times`.
      mode_scale: of "mode".
      stratified: whether the times of a batch are stratified.
      quantizer_weight: of the losses of the quantizer, if it has any.
      alignment_weight: of the alignment of decoder tokens with a frozen encoder's features (REPA).
    """

    times: TimeDistribution = "logit-normal"
    mode_scale: float = 1.29
    stratified: bool = False
    quantizer_weight: float = 1.0
    alignment_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class FlowObjective:
    """Rectified-flow loss of a decoder that is conditioned on tokens, and the alignment of its patches.

    Attributes:
      tokenizer: `FlowTokenizer`.
      weights: of the terms.
      read: `(variables, images) -> what the tokenizer reads`: pixels, or latents of an autoencoder.
      collections: of the tokenizer's variables that are taken from frozen networks of these names, and that
        no step changes: such an autoencoder.
      alignment: `(frozen variables, images) -> features`; its variables are `frozen["alignment"]`.
    """

    tokenizer: Any
    weights: FlowWeights
    read: Callable[[Variables, jax.Array], jax.Array]
    collections: tuple[str, ...] = ()
    alignment: Callable[..., jax.Array] | None = None

    def __post_init__(self):
        if self.weights.alignment_weight and self.alignment is None:
            raise ValueError(
                f"alignment_weight={self.weights.alignment_weight}, but no frozen network was given; give "
                "its weights or set it to 0"
            )

    def init(self, key: jax.Array, batch: Batch, frozen: Variables) -> Variables:
        """Fresh variables, and those of frozen networks that belong to them."""
        # Copies: the state is donated, the frozen variables are not.
        taken = {name: jax.tree.map(jnp.copy, frozen[name]) for name in self.collections}
        data = self.read(taken, batch["image"][:1])
        return {**self.tokenizer.init({"params": key}, data, x=data, t=jnp.zeros(1)), **taken}

    def loss(
        self, variables: Variables, batch: Batch, frozen: Variables, keys: jax.Array, step: jax.Array
    ) -> Terms:
        """All terms of a batch, see `Terms`."""
        del step
        w, data = self.weights, jax.lax.stop_gradient(self.read(variables, batch["image"]))
        uniforms = random.uniform(random.fold(keys, 4), ())
        t = flow_times(uniforms, w.times, w.mode_scale, w.stratified)
        noise = random.normal(random.fold(keys, 5), data.shape[1:])
        out = self.tokenizer.apply(variables, data, train=True, key=keys, x=flow_point(data, noise, t), t=t)
        total = flow_loss(out.features["velocity"], data, noise)
        metrics = {"loss/flow": total}
        for name, value in out.quantized.losses.items():
            metrics[f"loss/{name}"] = value
            total = total + w.quantizer_weight * value
        if self.alignment is not None and w.alignment_weight:
            target = self.alignment(frozen["alignment"], batch["image"])
            value = alignment_loss(_on_grid(out.features["alignment"], target), target)
            metrics["loss/alignment"] = value
            total = total + w.alignment_weight * value
        metrics["loss/total"] = total
        return Terms(total, metrics, out.quantized.statistics, {})

    def update_collections(self, collections: Variables, statistics: Variables, key: jax.Array) -> Variables:
        """State of the quantizer after an optimizer step; everything else stays."""
        if "quantizer" not in collections:
            return collections
        state = self.tokenizer.update_quantizer(collections["quantizer"], statistics, key)
        return {**collections, "quantizer": state}

    def summarise(self, statistics: Variables) -> dict[str, jax.Array]:
        """Health of the codes of this batch."""
        return {f"batch/{name}": value for name, value in health(statistics).items()}


def _on_grid(tokens: jax.Array, target: jax.Array) -> jax.Array:
    """Tokens [B, N, D] of a square image as [B, rows, columns, D], where the target is such a grid."""
    if target.ndim == tokens.ndim:
        return tokens
    rows = round(tokens.shape[1] ** 0.5)
    return tokens.reshape(tokens.shape[0], rows, -1, tokens.shape[-1])
