"""What quantizers that stand one behind the other have in common: one per depth or one for all of them, what
they start on, and how they move.

Parameters and state of quantizer i are called "quantizers_i".
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from jaxtok import keys as random


class QuantizerStack(nn.Module):
    """Base of stacks. A subclass says how many `depths` there are and what each of them codes.

    Attributes:
      quantizers: one per depth, or one alone that serves all of them.
    """

    quantizers: tuple[nn.Module, ...]

    @property
    def depths(self) -> int:
        """Number of depths."""
        return len(self.quantizers)

    @property
    def shared(self) -> bool:
        """Whether one quantizer serves several depths."""
        return len(self.quantizers) == 1 and self.depths > 1

    @nn.nowrap
    def update(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """Every quantizer's own update, or `shared_update` of one that serves several depths."""
        new, parts = dict(state), self._by_depth(statistics)
        for i, quantizer in enumerate(self.quantizers):
            name, own = f"quantizers_{i}", jax.random.fold_in(key, i)
            if name in new and self.shared:
                new[name] = shared_update(quantizer, new[name], parts, key)
            elif name in new:
                new[name] = quantizer.update(new[name], parts[i], own)  # pyright: ignore
        return new

    def _by_depth(self, statistics: Any) -> list[Any]:
        return [statistics[f"quantizers_{i}"] for i in range(self.depths)]

    def _at(self, depth: int) -> Any:
        return self.quantizers[0 if self.shared else depth]

    def _keys(self, key: jax.Array | None, train: bool, batch: int) -> Any:
        """A key per example, if there is a key."""
        if key is None and not (train and self.has_rng("quantizer")):
            return None
        return random.example_keys(self.make_rng("quantizer") if key is None else key, batch)

    def _check_number(self, what: str) -> None:
        if len(self.quantizers) not in (1, self.depths):
            raise ValueError(
                f"{len(self.quantizers)} quantizers for {what}={self.depths}; give one, or one for each"
            )


def inner_width(quantizer: Any) -> int:
    """Width of the features that a quantizer takes."""
    if getattr(quantizer, "width", 0):
        return quantizer.width
    bits = getattr(quantizer, "bits", 0)
    return bits * quantizer.groups if bits else quantizer.space.slots


def initialise_next(
    quantizer: Any,
    state: Any | None,
    x: Float[jax.Array, "B N D"],
    key: jax.Array,
    mask: jax.Array | None = None,
    value: Callable[[Any, jax.Array], jax.Array] | None = None,
) -> tuple[Any, Float[jax.Array, "B N D"]]:
    """Starts one quantizer, which passes through if it has no `initialise`.

    Args:
      quantizer: a bound module.
      state: its state, if it has one.
      x: what it is to code.
      key: scalar key.
      mask: bool [B, N] of real tokens.
      value: function of a quantizer and codes; default what it decodes.

    Returns:
      Its new state, and the value of the codes of x under that.
    """
    if state is not None and hasattr(quantizer, "initialise"):
        state = quantizer.initialise(state, x, key, mask)
    value = value or (lambda quantizer, codes: quantizer.decode(codes))
    variables = {"params": quantizer.variables.get("params", {}), "quantizer": state or {}}
    coded = lambda quantizer, x: value(quantizer, quantizer.encode(x))
    return state, quantizer.clone(parent=None).apply(variables, x, method=coded)


def shared_update(quantizer: Any, state: Any, statistics: list[Any], key: jax.Array) -> Any:
    """State of one quantizer that served several depths.

    Moving averages make one step per depth, in their order (as in `vector-quantize-pytorch`); codes are
    revived once at the end, from samples of all depths. Anything else makes one step, with the statistics of
    all depths added up.

    Args:
      quantizer: the quantizer.
      state: its state.
      statistics: of each depth, summed over the batch.
      key: scalar key.
    """
    summed = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *statistics)
    if getattr(quantizer, "learning", "") != "ema":
        return quantizer.update(state, summed, key)
    calm = quantizer.clone(revive_below=0.0)
    for part in statistics[:-1]:
        state = calm.update(state, part, key)
    samples = {name: value for name, value in summed.items() if name.startswith("sample")}
    return quantizer.update(state, statistics[-1] | samples, key)
