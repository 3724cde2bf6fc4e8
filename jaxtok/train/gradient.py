"""The usual update: one objective, one optimizer, gradient accumulation, a running average of the "
"parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtok import keys as random
from jaxtok.losses.terms import Terms
from jaxtok.train.diagnostics import module_norms
from jaxtok.train.optimizer import ema, optimizer
from jaxtok.train.schedules import TrainConfig, schedule
from jaxtok.train.stage import Objective, State, collections_of

GRADIENT_NORM = (
    "gradient_norm/"  # metrics of this group say where a gradient is large; the loop shows them on failure
)


@dataclasses.dataclass(frozen=True)
class GradientUpdate:
    """`Update` that minimises an objective, see `gradient`.

    Attributes:
      objective: what.
      fit: how.
    """

    objective: Objective
    fit: TrainConfig

    def init(self, key: jax.Array, batch: Any, frozen: Any) -> State:
        """Fresh variables, optimizer state and average."""
        variables = self.objective.init(key, batch, frozen)
        params = variables["params"]
        state = {"step": jnp.int32(0), **variables, "optimizer": optimizer(self.fit).init(params)}
        if self.fit.ema_decay:
            state["ema"] = jax.tree.map(jnp.copy, params)
        return state

    def __call__(
        self, state: State, batch: Any, frozen: Any, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """One optimizer step."""
        key = jax.random.fold_in(key, state["step"])

        def loss(params, micro_batch, keys):
            variables = {**collections_of(state), "params": params}
            terms = self.objective.loss(variables, micro_batch, frozen, keys, state["step"])
            return terms.total, dataclasses.replace(terms, outputs={})

        gradients, terms = accumulate(loss, state["params"], batch, key, self.fit.micro_batches)
        state, metrics = apply_gradients(self.objective, self.fit, state, gradients, terms, key)
        return state, metrics


def gradient(objective: Objective, fit: TrainConfig) -> GradientUpdate:
    """The update that minimises `objective` as `fit` says."""
    return GradientUpdate(objective, fit)


def accumulate(loss: Any, params: Any, batch: Any, key: jax.Array, parts: int) -> tuple[Any, Terms]:
    """Gradients and terms of a batch, computed in `parts` micro-batches one after the other.

    Equal to one batch: every example keeps its own key, losses and metrics are averaged, statistics are
      summed.

    Args:
      loss: `(params, micro_batch, keys) -> (total, Terms)`.
      params: what to differentiate.
      batch: pytree of arrays [B, ...].
      key: scalar key of this step.
      parts: number of micro-batches, dividing B.

    Raises:
      ValueError: it does not divide.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    keys = random.example_keys(key, size)
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        (_, terms), gradients = value_and_grad(params, batch, keys)
        return gradients, terms
    if size % parts:
        raise ValueError(f"a batch of {size} does not divide into micro_batches={parts}")

    def split(x):
        # Strided, so that each micro-batch is spread over all devices as the batch is.
        return jnp.swapaxes(x.reshape(size // parts, parts, *x.shape[1:]), 0, 1)

    micro = jax.tree.map(split, (batch, keys))
    shapes = jax.eval_shape(lambda m: value_and_grad(params, *m), jax.tree.map(lambda x: x[0], micro))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def step(carry, m):
        return jax.tree.map(jnp.add, carry, value_and_grad(params, *m)), None

    ((_, terms), gradients), _ = jax.lax.scan(step, zeros, micro)

    def mean(tree):
        return jax.tree.map(lambda x: x / parts, tree)

    return mean(gradients), Terms(mean(terms.total), mean(terms.metrics), terms.statistics, {})


def apply_gradients(
    objective: Objective, fit: TrainConfig, state: State, gradients: Any, terms: Terms, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
    """The next state from gradients and summed statistics, and all metrics of the step."""
    params = state["params"]
    updates, moments = optimizer(fit).update(gradients, state["optimizer"], params)
    new_params = optax.apply_updates(params, updates)
    collections = objective.update_collections(
        collections_of(state), terms.statistics, jax.random.fold_in(key, 1)
    )
    new_state = {
        **state,
        **collections,
        "step": state["step"] + 1,
        "params": new_params,
        "optimizer": moments,
    }
    if fit.ema_decay:
        new_state["ema"] = ema(state["ema"], new_params, fit.ema_decay, state["step"])
    metrics = {
        **terms.metrics,
        **objective.summarise(terms.statistics),
        "learning_rate": jnp.asarray(schedule(fit)(state["step"]), jnp.float32),
        "norm/gradients": optax.tree.norm(gradients),
        "norm/updates": optax.tree.norm(updates),
        "norm/params": optax.tree.norm(new_params),
        **{f"{GRADIENT_NORM}{module}": norm for module, norm in module_norms(gradients).items()},
    }
    return new_state, metrics
