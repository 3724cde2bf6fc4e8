"""Training that remembers how its codes were used.

A batch is too small to say how much of a large alphabet is in use: 4,096 tokens, even if each code were
equally likely, would reach 63 % of 4,096 codes. So counts are added up over several batches before they are
measured. What was found is kept in the state of the training, so that a run which was interrupted keeps its
history.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.losses.terms import Terms
from jaxtok.quantize.health import health

Variables = dict[str, Any]
_MEASURES = ("usage", "perplexity")


@dataclasses.dataclass(frozen=True)
class UsageHistory:
    """An objective with a history of usage and perplexity in the collection "history".

    The collection holds "usage" and "perplexity", float32 [windows]: of each window of `every` steps, NaN
    where it is not over yet; the counts since the last one; and the number of steps.

    Attributes:
      objective: what is minimised; its statistics have "counts", see `jaxtok.quantize.health`.
      every: steps in a window.
      windows: how many are kept; later ones are not.
    """

    objective: Any
    every: int
    windows: int

    def init(self, key: jax.Array, batch: Any, frozen: Variables) -> Variables:
        """Fresh variables and an empty history.

        Raises:
          ValueError: the objective's statistics count no codes.
        """
        variables = self.objective.init(key, batch, frozen)
        keys = jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])
        terms = jax.eval_shape(self.objective.loss, variables, batch, frozen, keys, jnp.int32(0))
        counts = counts_of(terms.statistics)
        if not counts:
            raise ValueError(
                f"statistics with {sorted(terms.statistics)} count no codes; use a quantizer whose "
                "statistics have counts, or leave the history out"
            )
        history = {
            "step": jnp.int32(0),
            "counts": jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), counts),
            **{name: jnp.full(self.windows, jnp.nan, jnp.float32) for name in _MEASURES},
        }
        return {**variables, "history": history}

    def loss(
        self, variables: Variables, batch: Any, frozen: Variables, keys: jax.Array, step: jax.Array
    ) -> Terms:
        """The terms of the objective."""
        return self.objective.loss(variables, batch, frozen, keys, step)

    def update_collections(self, collections: Variables, statistics: Any, key: jax.Array) -> Variables:
        """The objective's own collections, and the history with the codes of this step."""
        rest = {name: value for name, value in collections.items() if name != "history"}
        updated = self.objective.update_collections(rest, statistics, key)
        return {**updated, "history": self.record(collections["history"], statistics)}

    def record(self, history: Variables, statistics: Any) -> Variables:
        """A history with one more step."""
        counts = jax.tree.map(jnp.add, history["counts"], counts_of(statistics))
        step = history["step"] + 1
        over, window = step % self.every == 0, step // self.every - 1
        found = health(counts)
        here = over & (jnp.arange(self.windows) == window)
        measures = {name: jnp.where(here, found[name], history[name]) for name in _MEASURES}
        return {
            "step": step,
            "counts": jax.tree.map(lambda x: jnp.where(over, 0, x), counts),
            **measures,
        }

    def summarise(self, statistics: Any) -> dict[str, jax.Array]:
        """The objective's metrics."""
        return self.objective.summarise(statistics)


def counts_of(statistics: Any) -> Variables:
    """Statistics without anything but "counts", which may stand in dictionaries of dictionaries."""
    found = {}
    for name, value in statistics.items():
        if name == "counts":
            found[name] = value
        elif isinstance(value, dict) and (inner := counts_of(value)):
            found[name] = inner
    return found
