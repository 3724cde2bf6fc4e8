"""Next-token prior with one independent head per slot.

For binary latents every head is a Bernoulli (Instella-T2I, arXiv 2506.21022); for any other code space it is
a categorical over the slot's levels. Tokens are generated in order with a static cache.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.decoding.guidance import (
    GuidanceSchedule,
    check_schedule,
    guidance_strength,
    guide_stacked,
    with_unconditional,
)
from jaxtok.decoding.logits import LogitRules
from jaxtok.decoding.slots import sample_slots
from jaxtok.nn.slots import log_likelihood
from jaxtok.priors.contract import Codec, Metrics, Prior, drop_condition, masked_mean

_SHORTEST_STAGE = 32  # tokens


@dataclasses.dataclass(frozen=True)
class AutoregressiveSettings:
    """How to sample an autoregressive prior.

    Attributes:
      guidance: strength w of classifier-free guidance, c + w (c - u); 0 samples the conditional model alone.
        A strength s of the form u + s (c - u) is w = s - 1.
      temperature: divides the logits; 0 takes the most likely values.
      guided_tokens: how many tokens, from the first, are guided; 0 for all.
      top_k: how many values of a slot can be drawn; 0 for all.
      top_p: probability of the nucleus that they are drawn from; 1 for all.
      min_p: their least probability, relative to the likeliest; 0 for all.
      guidance_schedule: course of the strength over the tokens, "constant" or from 0 to `guidance`.
      guidance_power: of the course "power-cosine".
      tokens: how many tokens to draw, for decoders that take the first few of them; 0 for all. The others get
        code 0 and are absent by the mask.
    """

    guidance: float = 3.0
    temperature: float = 1.0
    guided_tokens: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    guidance_schedule: GuidanceSchedule = "constant"
    guidance_power: float = 1.0
    tokens: int = 0

    def __post_init__(self):
        check_schedule(self.guidance_schedule)
        if self.guidance_power <= 0:
            raise ValueError(f"guidance_power={self.guidance_power} must be positive")
        if self.temperature < 0:
            raise ValueError(
                f"temperature={self.temperature} must be at least 0 (0 takes the most likely value)"
            )
        if self.guided_tokens < 0:
            raise ValueError(f"guided_tokens={self.guided_tokens} must be at least 0 (0 guides all of them)")
        if self.tokens < 0:
            raise ValueError(f"tokens={self.tokens} must be at least 0 (0 draws all of them)")
        _ = self.rules  # which checks its own numbers

    @property
    def rules(self) -> LogitRules:
        """What changes the logits of a slot beside the temperature."""
        return LogitRules(top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """The method of a next-token prior; its network is causal and not timed.

    Attributes:
      space: alphabet of a token.
      condition_dropout: probability that a row trains with the null condition, which guidance needs.
      settings: recommended sampler settings.
    """

    space: CodeSpace
    condition_dropout: float = 0.1
    settings: AutoregressiveSettings = AutoregressiveSettings()

    @property
    def loss_name(self) -> str:
        """What the loss is: the likelihood."""
        return "nll"

    def example_inputs(self, latents: Latents) -> tuple[Any, ...]:
        """Nothing beside codes and condition."""
        del latents
        return ()

    def default_settings(self) -> AutoregressiveSettings:
        """Recommended sampler settings."""
        return self.settings

    def loss(
        self,
        apply: Callable[..., jax.Array],
        params: Any,
        latents: Latents,
        condition: Condition | None,
        key: jax.Array,
        codec: Codec | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy in nats per slot.

        Args:
          apply: `(params, codes, condition) -> logits`.
          params: the network's parameters.
          latents: codes int32 [B, N, Q], `mask` marks the slots that count.
          condition: B rows, or None.
          key: scalar, or one key per example.
          codec: not used.

        Returns:
          The loss and "bits_per_token", the code length of a token in bits.
        """
        del codec
        keys = random.example_keys(key, latents.codes.shape[0])
        condition = drop_condition(condition, keys, self.condition_dropout)
        logits = apply(params, latents.codes, condition)
        nll = masked_mean(-log_likelihood(logits, latents.codes, self.space), latents.mask)
        return nll, {"bits_per_token": nll * latents.codes.shape[-1] / jnp.log(2.0)}

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
        """Draws the tokens in order, one network evaluation each, see `Prior.sample`.

        Raises:
          ValueError: more tokens than there are.
        """
        del codec
        count = settings.tokens or prior.tokens
        if count > prior.tokens:
            raise ValueError(f"tokens={count}, but this prior has {prior.tokens}; draw at most those")
        keys = random.example_keys(key, batch)
        guided = bool(settings.guidance) and condition is not None
        doubled = with_unconditional(condition) if guided and condition is not None else condition
        rows = 2 * batch if guided else batch
        ends = _stage_ends(count)
        cache = prior.start(params, doubled, ends[0], rows)

        def step(carry, position):
            cache, previous = carry
            inputs = jnp.concatenate([previous, previous]) if guided else previous
            logits, cache = prior.step(params, cache, inputs, jnp.full((rows, 1), position))
            if guided:
                strength = guidance_strength(
                    settings.guidance,
                    position / prior.tokens,
                    settings.guidance_schedule,
                    settings.guidance_power,
                )
                if settings.guided_tokens:
                    strength = jnp.where(position < settings.guided_tokens, strength, 0.0)
                logits = guide_stacked(logits, strength, "c+s(c-u)")
            draw = random.fold(keys, position)
            codes = sample_slots(logits, prior.space, draw, settings.temperature, settings.rules)
            if given is not None:
                known, mask = (
                    jax.lax.dynamic_slice_in_dim(x, position, 1, axis=1) for x in (given.codes, given.mask)
                )
                codes = jnp.where(mask, known, codes)
            return (cache, codes), codes[:, 0]

        previous, drawn = jnp.zeros((batch, 1, prior.space.slots), jnp.int32), []
        for start, end in itertools.pairwise((0, *ends)):
            cache = cache.grown(end) if start else cache
            (cache, previous), codes = jax.lax.scan(step, (cache, previous), jnp.arange(start, end))
            drawn.append(codes)
        codes = jnp.swapaxes(jnp.concatenate(drawn), 0, 1)
        if count == prior.tokens:
            return Latents(codes=codes)
        codes = jnp.pad(codes, ((0, 0), (0, prior.tokens - count), (0, 0)))
        present = (jnp.arange(prior.tokens) < count)[:, None]
        return Latents(codes=codes, mask=jnp.broadcast_to(present, codes.shape))


def _stage_ends(count: int) -> tuple[int, ...]:
    """Where the cache grows while `count` tokens are drawn. Every token reads the whole cache, filled or not;
    with four sizes that is 5/8 of what it is with one, and the loop is compiled four times.
    """
    stages = min(4, max(count // _SHORTEST_STAGE, 1))
    return tuple(count * (stage + 1) // stages for stage in range(stages))
