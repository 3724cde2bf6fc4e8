"""An objective as a list of terms: what tokenizers of any signal minimise.

A term is a frozen dataclass with a `weight`, a `name` (the metric `loss/<name>`) and `__call__(Reading) ->
scalar`; a new one is a class in any file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxtok.codes import Reconstruction
from jaxtok.losses.spectral import Resolution, multi_resolution_stft_loss
from jaxtok.losses.terms import Terms
from jaxtok.quantize.health import health

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a term sees.

    Attributes:
      target: the signals [B, ...] in the model's range, zero in padding.
      mask: bool [B, T], which samples along time are real; None for all.
      out: what the tokenizer made of them.
      batch: all arrays.
      frozen: variables of frozen networks, by name.
    """

    target: jax.Array
    mask: jax.Array | None
    out: Reconstruction
    batch: Mapping[str, Any]
    frozen: Variables


@runtime_checkable
class Term(Protocol):
    """One term of an objective."""

    @property
    def name(self) -> str:
        """Of its metric."""
        ...

    @property
    def weight(self) -> float:
        """In the sum."""
        ...

    def __call__(self, reading: Reading) -> jax.Array:
        """A scalar, a mean over what is real."""
        ...


@dataclasses.dataclass(frozen=True)
class Distance:
    """Mean distance of samples: |x - y| ("l1") or (x - y)^2 ("l2"), over real samples."""

    kind: Literal["l1", "l2"] = "l1"
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Of its metric."""
        return self.kind

    def __call__(self, reading: Reading) -> jax.Array:
        """See `Term`."""
        difference = reading.out.x_hat - reading.target
        values = jnp.abs(difference) if self.kind == "l1" else jnp.square(difference)
        if reading.mask is None:
            return jnp.mean(values)
        real = jnp.broadcast_to(
            reading.mask.reshape(*reading.mask.shape, *[1] * (values.ndim - 2)), values.shape
        )
        return jnp.sum(values * real) / jnp.maximum(jnp.sum(real), 1)


@dataclasses.dataclass(frozen=True)
class Spectral:
    """Multi-resolution STFT loss of sound [B, T, C], see `multi_resolution_stft_loss`; zero in padding."""

    resolutions: tuple[Resolution, ...]
    weight: float = 1.0
    name: str = "stft"

    def __call__(self, reading: Reading) -> jax.Array:
        """See `Term`."""
        x_hat = jnp.moveaxis(reading.out.x_hat, -1, 1).reshape(-1, reading.target.shape[1])
        target = jnp.moveaxis(reading.target, -1, 1).reshape(-1, reading.target.shape[1])
        return multi_resolution_stft_loss(x_hat, target, self.resolutions)


@dataclasses.dataclass(frozen=True)
class SignalObjective:
    """The terms of a tokenizer of signals, and the losses of its quantizer.

    Attributes:
      tokenizer: `SignalTokenizer`, or any Linen module called `(x, train, key, mask=...)` that returns a
        `Reconstruction` and updates its quantizer as that does.
      key: name of the signal in batches; `<key>_mask` bool [B, T], if there is one, says which samples are
        real.
      terms: of the reconstruction.
      quantizer_weight: of all losses of the quantizer.
      codebook_from_data: whether the quantizer's state starts with k-means on the first batch.
    """

    tokenizer: Any
    key: str
    terms: tuple[Term, ...] = (Distance(),)
    quantizer_weight: float = 1.0
    codebook_from_data: bool = False

    def init(self, key: jax.Array, batch: Mapping[str, Any], frozen: Variables) -> Variables:
        """Fresh variables."""
        del frozen
        x, mask = self._signal(batch)
        one = None if mask is None else mask[:1]
        variables = self.tokenizer.init({"params": key}, x[:1], key=key, mask=one)
        if not self.codebook_from_data:
            return variables
        state, own = variables.get("quantizer"), jax.random.fold_in(key, 1)
        fitted = self.tokenizer.apply(variables, state, x, own, mask, method="initialise_quantizer")
        return {**variables, "quantizer": fitted}

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Any],
        frozen: Variables,
        keys: jax.Array,
        step: jax.Array,
    ) -> Terms:
        """All terms of a batch, see `Terms`; outputs "real" and "fake" signals."""
        del step
        x, mask = self._signal(batch)
        out = self.tokenizer.apply(variables, x, train=True, key=keys, mask=mask)
        reading = Reading(x, mask, out, batch, frozen)
        values = [(term.name, term.weight, term(reading)) for term in self.terms]
        values += [(name, self.quantizer_weight, value) for name, value in out.quantized.losses.items()]
        total = jnp.float32(0)
        metrics = {}
        for name, weight, value in values:
            metrics[f"loss/{name}"] = value
            total = total + weight * value
        metrics["loss/total"] = total
        return Terms(total, metrics, out.quantized.statistics, {"real": x, "fake": out.x_hat})

    def update_collections(self, collections: Variables, statistics: Variables, key: jax.Array) -> Variables:
        """State of the quantizer after an optimizer step."""
        if "quantizer" not in collections:
            return collections
        state = self.tokenizer.update_quantizer(collections["quantizer"], statistics, key)
        return {**collections, "quantizer": state}

    def summarise(self, statistics: Variables) -> dict[str, jax.Array]:
        """Health of the codes of this batch."""
        return {f"batch/{name}": value for name, value in health(statistics).items()}

    def _signal(self, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array | None]:
        x, mask = jnp.asarray(batch[self.key]), batch.get(f"{self.key}_mask")
        if mask is None:
            return x, None
        mask = jnp.asarray(mask)
        return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0), mask
