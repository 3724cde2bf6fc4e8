"""What every prior is: a network and a method.

The network (a Linen module, `jaxtok.nn`) maps latents and a condition to logits and offers `start` and `step`
for generation. The method (a frozen dataclass in this package) says how to train and sample it. `Prior` binds
the two.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxtok import keys as random
from jaxtok.codes import Condition, Latents

Metrics = dict[str, jax.Array]


@runtime_checkable
class Codec(Protocol):
    """What a prior may need of the frozen tokenizer (VAR, ResGen, LANTERN); the priors of bits need none."""

    def embed(self, codes: jax.Array) -> jax.Array:
        """Codes int32 [B, N, Q] to embeddings float32 [B, N, D]."""
        ...


@runtime_checkable
class PriorMethod(Protocol):
    """How a distribution over codes is trained and sampled; knows the network only by its functions."""

    def loss(
        self,
        apply: Callable[..., jax.Array],
        params: Any,
        latents: Latents,
        condition: Condition | None,
        key: jax.Array,
        codec: Codec | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Scalar loss and metrics. `key` is a scalar, or one key per example."""
        ...

    @property
    def loss_name(self) -> str:
        """What the loss is: "nll", or the name of a loss that is not a likelihood."""
        ...

    def example_inputs(self, latents: Latents) -> tuple[Any, ...]:
        """What the network takes beside codes and condition, for its initialisation."""
        ...

    def default_settings(self) -> Any:
        """Recommended sampler settings."""
        ...

    def sample(
        self,
        prior: "Prior",
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        batch: int,
        given: Latents | None,
        settings: Any,
        codec: Codec | None,
    ) -> Latents:
        """Draws latents."""
        ...


@runtime_checkable
class ScheduledMethod(PriorMethod, Protocol):
    """A method that trains differently early and late."""

    def at(self, step: jax.Array) -> PriorMethod:
        """The method of one optimizer step.

        Args:
          step: int32 scalar; traced, so that one compiled update serves all steps.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Prior:
    """A network and its method.

    Attributes:
      network: Linen module with `space`, `tokens`, `__call__`, `start` and `step`; one of continuous latents
        has the space None, and `channels`.
      method: how it is trained and sampled.
    """

    network: Any
    method: PriorMethod

    @property
    def space(self) -> Any:
        """Alphabet of a token, a `CodeSpace`; None of continuous latents."""
        return self.network.space

    @property
    def tokens(self) -> int:
        """N."""
        return self.network.tokens

    def example(self, batch: int = 1) -> Latents:
        """Latents of the right shapes that say nothing: zeros."""
        if self.space is None:
            return Latents(values=jnp.zeros((batch, self.tokens, self.network.channels), jnp.float32))
        return Latents(codes=jnp.zeros((batch, self.tokens, self.space.slots), jnp.int32))

    def at(self, step: jax.Array) -> "Prior":
        """The prior as it trains at an optimizer step, see `ScheduledMethod`; else itself."""
        if not isinstance(self.method, ScheduledMethod):
            return self
        return dataclasses.replace(self, method=self.method.at(step))

    def init(self, key: jax.Array, latents: Latents, condition: Condition | None) -> Any:
        """Fresh parameters."""
        arguments = self.method.example_inputs(latents)
        content = latents.values if self.space is None else latents.codes
        return self.network.init(key, content, condition, *arguments)["params"]

    def apply(
        self, params: Any, *args: Any, method: str | Callable[..., Any] | None = None, **kwargs: Any
    ) -> Any:
        """The network as a function of its parameters."""
        return self.network.apply({"params": params}, *args, method=method, **kwargs)

    def loss(
        self,
        params: Any,
        latents: Latents,
        condition: Condition | None,
        key: jax.Array,
        codec: Codec | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Scalar loss and metrics of a batch, see `PriorMethod.loss`.

        Raises:
          ValueError: latents of another space or length.
        """
        _check_latents(self, latents)
        return self.method.loss(self.apply, params, latents, condition, key, codec)

    def start(self, params: Any, condition: Condition | None, capacity: int, batch: int | None = None) -> Any:
        """A cache that knows the condition, with room for `capacity` tokens: a pytree with `keep`, such as
        `KVCache`.
        """
        return self.apply(params, condition, capacity, batch, method="start")

    def step(
        self,
        params: Any,
        cache: Any,
        inputs: jax.Array,
        positions: jax.Array,
        mask: jax.Array | None = None,
    ):
        """Prediction at `positions` and the longer cache, see `LatentTransformer.step`."""
        return self.apply(params, cache, inputs, positions, mask, method="step")

    def sample(
        self,
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        *,
        batch: int | None = None,
        given: Latents | None = None,
        settings: Any = None,
        codec: Codec | None = None,
    ) -> Latents:
        """Draws latents; one compiled call when wrapped in `jax.jit`.

        Args:
          params: parameters of the network.
          condition: what to generate, B rows; None for an unconditional prior.
          key: scalar key, or one key per example.
          batch: B, needed only without a condition.
          given: codes (or values) to keep where its mask [B, N, Q] (of values [B, N, 1]) is True. A diffusion
            prior draws the rest given them; an autoregressive one draws each token given those before it, so
            later given tokens do not reach back.
          settings: the method's settings; its own defaults if None.
          codec: see `Codec`.

        Raises:
          ValueError: neither condition nor batch, or `given` without codes and mask or of another shape.
        """
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch`, the number of samples")
        batch = condition.batch if condition is not None else int(batch)  # type: ignore[arg-type]
        if given is not None:
            _check_given(self, given, batch)
        settings = self.method.default_settings() if settings is None else settings
        return self.method.sample(self, params, condition, key, batch, given, settings, codec)


def _check_latents(prior, latents):
    continuous = prior.space is None
    found = latents.values if continuous else latents.codes
    expected = (prior.tokens, prior.network.channels if continuous else prior.space.slots)
    if found is None or found.shape[1:] != expected:
        shape = None if found is None else found.shape
        kind = "values" if continuous else "codes"
        raise ValueError(
            f"latents of shape {shape}; this prior models [B, {expected[0]}, {expected[1]}] {kind}"
        )


def _check_given(prior, given, batch):
    kind = "codes" if prior.space is not None else "values"
    content = getattr(given, kind)
    if content is None or given.mask is None:
        raise ValueError(f"`given` needs {kind} and a mask that says which of them to keep")
    _check_latents(prior, given)
    shape = content.shape if kind == "codes" else (*content.shape[:2], 1)
    if given.mask.shape != shape:
        wanted = "they must be equal" if kind == "codes" else f"it must be {shape}, True for whole tokens"
        raise ValueError(
            f"the mask of `given` has shape {given.mask.shape}, its {kind} {content.shape}; {wanted}"
        )
    if content.shape[0] != batch:
        raise ValueError(f"`given` has {content.shape[0]} rows, the condition {batch}")


def drop_condition(condition: Condition | None, keys: jax.Array, probability: float) -> Condition | None:
    """The condition of a training batch whose rows lose it with some probability, so that guidance has an
    unconditional side (arXiv 2207.12598); `keys` is one key per example.
    """
    if condition is None or not probability:
        return condition
    return condition.select(random.uniform(random.fold(keys, 2), ()) < probability)


def masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean over the entries whose mask, broadcast to the values, is True (all without a mask). What others
    hold has no effect, NaN included.
    """
    if mask is None:
        return jnp.mean(values)
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)
