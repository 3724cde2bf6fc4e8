"""What every prior is: a network and a method.

The network (a Linen module, `jaxtok.nn`) maps latents and a condition to logits and offers `start` and `step`
for generation. The method (a frozen dataclass in this package) says how to train and sample it. `Prior` binds
the two.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxtok import keys as random
from jaxtok.codes import Condition, Latents
from jaxtok.nn.canvas import Canvas

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
      present: bool [B, N], which tokens the rows that are sampled have; None for all. `sample` sets it.
    """

    network: Any
    method: PriorMethod
    present: Any = None

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
        if self.present is not None and method is None:
            kwargs["present"] = self._rows(args[0].shape[0])
        return self.network.apply({"params": params}, *args, method=method, **kwargs)

    @property
    def takes_lengths(self) -> bool:
        """Whether the network keeps padding out of its attention."""
        return getattr(self.network, "takes_lengths", False)

    def _rows(self, rows: int) -> jax.Array:
        """`present` of so many rows: of all of them, or once more for those without a condition."""
        return jnp.concatenate([self.present] * (rows // self.present.shape[0]))

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
        apply = self.apply
        if latents.mask is not None and self.takes_lengths:
            apply = functools.partial(self.apply, present=jnp.any(latents.mask, axis=-1))
        return self.method.loss(apply, params, latents, condition, key, codec)

    def start(self, params: Any, condition: Condition | None, capacity: int, batch: int | None = None) -> Any:
        """A cache that knows the condition, with room for `capacity` tokens: a pytree with `keep`, such as
        `KVCache`.
        """
        cache = self.apply(params, condition, capacity, batch, method="start")
        if self.present is None or not isinstance(cache, Canvas):
            return cache
        return dataclasses.replace(cache, present=self._rows(cache.known.shape[0]))

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
        lengths: jax.Array | None = None,
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
          lengths: int32 [B], tokens of each row; the others are not attended to, are 0, and have a False in
            the mask of the result. None for all N.

        Raises:
          ValueError: neither condition nor batch, `given` without codes and mask or of another shape, or
            lengths for a network that does not read them.
        """
        if condition is None and batch is None:
            raise ValueError("an unconditional prior needs `batch`, the number of samples")
        batch = condition.batch if condition is not None else int(batch)  # type: ignore[arg-type]
        if given is not None:
            _check_given(self, given, batch)
        settings = self.method.default_settings() if settings is None else settings
        if lengths is None:
            return self.method.sample(self, params, condition, key, batch, given, settings, codec)
        if not self.takes_lengths:
            raise ValueError(
                f"{type(self.network).__name__} samples {self.tokens} tokens of every row; leave out lengths"
            )
        prior, given = self._of_lengths(jnp.asarray(lengths), given, batch)
        drawn = self.method.sample(prior, params, condition, key, batch, given, settings, codec)
        mask = jnp.broadcast_to(prior.present[..., None], drawn.codes.shape)
        mask = mask if drawn.mask is None else mask & drawn.mask
        return Latents(codes=jnp.where(mask, drawn.codes, 0), mask=mask)

    def _of_lengths(self, lengths: jax.Array, given: Latents | None, batch: int) -> tuple["Prior", Latents]:
        """The prior of rows with lengths; padding is given as zeros, so that nothing is drawn for it."""
        present = jnp.arange(self.tokens) < lengths[:, None]
        shape = (batch, self.tokens, self.space.slots)
        codes = jnp.zeros(shape, jnp.int32) if given is None else jnp.asarray(given.codes, jnp.int32)
        known = jnp.zeros(shape, bool) if given is None else jnp.asarray(given.mask)
        padding = jnp.broadcast_to(~present[..., None], shape)
        own = Latents(codes=jnp.where(padding, 0, codes), mask=known | padding)
        return dataclasses.replace(self, present=present), own


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
