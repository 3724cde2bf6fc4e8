"""Next-token prior that is trained in random orders of the tokens, less and less (RAR, arXiv 2411.00776).

A network that has to predict every token from any set of others learns to look both ways, which one that
only reads row by row never does. The part of the batch that comes in a random order goes from 1 to 0, so that
the network ends as a plain next-token prior, with the cache of one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxtok import keys as random
from jaxtok.codes import Condition, Latents
from jaxtok.decoding.guidance import GuidanceSchedule
from jaxtok.priors.autoregressive import Autoregressive, AutoregressiveSettings
from jaxtok.priors.contract import Codec, Metrics, Prior


@dataclasses.dataclass(frozen=True)
class PermutedSettings(AutoregressiveSettings):
    """How to sample, see `AutoregressiveSettings`; by default with RAR's course of guidance.

    Attributes:
      guidance_schedule: course of the strength over the tokens.
      guidance_power: of the course "power-cosine".
      given_first: where tokens are given, take them first, in the order in which they lie, so that all of
        them steer all others. Without, each token is drawn given those that lie before it. A network at the
        end of its annealing has not seen other orders for a while.
    """

    guidance_schedule: GuidanceSchedule = "power-cosine"
    guidance_power: float = 2.75
    given_first: bool = True


@dataclasses.dataclass(frozen=True)
class Permuted(Autoregressive):
    """The method; its network is called `(codes, condition, orders)`, see `PermutedTransformer`.

    Attributes:
      settings: recommended sampler settings.
      random_until: optimizer steps in which every order is random.
      raster_from: step from which none is; in between the part falls linearly.
      random_share: probability that an example comes in a random order, which `at` sets. By itself the
        method takes the order in which tokens lie.
    """

    settings: AutoregressiveSettings = PermutedSettings()
    random_until: int = 0
    raster_from: int = 0
    random_share: Any = 0.0

    def __post_init__(self):
        if not 0 <= self.random_until <= self.raster_from:
            raise ValueError(
                f"random_until={self.random_until} must lie in [0, raster_from={self.raster_from}]"
            )

    def at(self, step: jax.Array | int) -> "Permuted":
        """The method of one optimizer step, with r(step) as its `random_share`:

        r = 1 for step < random_until, 0 for step >= raster_from, and linear between the two.
        """
        step, span = jnp.asarray(step), self.raster_from - self.random_until
        # Without a span the step function, which has no slope.
        falling = (self.raster_from - step) / span if span else step < self.random_until
        return dataclasses.replace(self, random_share=jnp.clip(jnp.asarray(falling, jnp.float32), 0.0, 1.0))

    def draw_orders(self, keys: jax.Array, tokens: int) -> Int[jax.Array, "B N"]:
        """An order for each example, from its key [B]: a random one with probability `random_share`, every
        one equally likely, else 0..N-1.
        """
        shuffled = jnp.argsort(random.uniform(random.fold(keys, 0), (tokens,)), axis=-1)
        is_random = random.uniform(random.fold(keys, 1), ()) < self.random_share
        return jnp.where(is_random[:, None], shuffled, jnp.arange(tokens))

    def loss(
        self,
        apply: Callable[..., jax.Array],
        params: Any,
        latents: Latents,
        condition: Condition | None,
        key: jax.Array,
        codec: Codec | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy in nats per slot, each token given those before it in its example's order.

        Args:
          apply: `(params, codes, condition, orders) -> logits`.
          params, latents, condition, key, codec: see `Autoregressive.loss`.

        Returns:
          The loss, and "bits_per_token" and "random_share".
        """
        if isinstance(self.random_share, (int, float)) and not self.random_share:
            return super().loss(apply, params, latents, condition, key, codec)
        batch, tokens = latents.codes.shape[:2]
        keys = random.example_keys(key, batch)
        orders = self.draw_orders(keys, tokens)

        def in_order(params, codes, condition):
            return apply(params, codes, condition, orders)

        loss, metrics = super().loss(in_order, params, latents, condition, keys, codec)
        return loss, {**metrics, "random_share": jnp.asarray(self.random_share, jnp.float32)}

    def sample(
        self,
        prior: Prior,
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        batch: int,
        given: Latents | None,
        settings: AutoregressiveSettings,
        codec: Codec | None,
    ) -> Latents:
        """Draws the tokens in the order in which they lie, or given ones first; see `Prior.sample`."""
        rest = (params, condition, key, batch)
        if given is None or not getattr(settings, "given_first", False):
            return super().sample(prior, *rest, given, settings, codec)
        known = jnp.all(jnp.asarray(given.mask), axis=-1)
        orders = jnp.argsort(~known, axis=1, stable=True)

        def arrange(x, order):
            return jnp.take_along_axis(jnp.asarray(x), order[..., None], axis=1)

        arranged = Latents(codes=arrange(given.codes, orders), mask=arrange(given.mask, orders))
        ordered = _InOrder(prior.network, prior.method, orders=orders)
        drawn = super().sample(ordered, *rest, arranged, settings, codec)
        back = jnp.argsort(orders, axis=1)
        mask = None if drawn.mask is None else arrange(drawn.mask, back)
        return Latents(codes=arrange(drawn.codes, back), mask=mask)


@dataclasses.dataclass(frozen=True)
class _InOrder(Prior):
    """A prior whose caches begin with an order of the tokens, so that places take the part of positions."""

    orders: Any = None

    def start(self, params: Any, condition: Condition | None, capacity: int, batch: int | None = None) -> Any:
        cache = super().start(params, condition, capacity, batch)
        copies = cache.orders.shape[0] // self.orders.shape[0]  # two where there is guidance
        return cache.in_order(jnp.tile(self.orders, (copies, 1)))
