"""Masked prior over continuous latents: some tokens are known, the others are denoised one by one given what
a transformer says of them (MAR, arXiv 2406.11838; MaskGen-KL, arXiv 2501.07730).

Tokens become known in random order, a few in each step; between the tokens of one step nothing is modelled.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import keys as random
from jaxtok.codes import Condition, Latents
from jaxtok.decoding.diffusion import GaussianDiffusion, sample_diffusion
from jaxtok.decoding.guidance import GuidanceSchedule, guidance_strength, guide_stacked, with_unconditional
from jaxtok.decoding.unmasking import (
    check_mask_schedule,
    keep_masked,
    mask_ratio,
    masked_after,
    random_masked,
)
from jaxtok.priors.contract import Codec, Metrics, Prior, drop_condition
from jaxtok.priors.token_diffusion import diffusion_terms, noised


@dataclasses.dataclass(frozen=True)
class MaskedValueSettings:
    """How to sample a masked prior over continuous latents.

    Attributes:
      steps: evaluations of the transformer.
      schedule: part of the tokens that is masked after each step, see `mask_ratio`.
      guidance: strength s of c + s (c - u), on the noise that the small network predicts; 0 for none.
      guidance_schedule: its course from 0 while tokens become known.
      temperature: factor of the noise of the steps back.
      diffusion_steps: steps back per token; 0 for all.
    """

    steps: int = 32
    schedule: str = "cosine"
    guidance: float = 2.0
    guidance_schedule: GuidanceSchedule = "linear"
    temperature: float = 1.0
    diffusion_steps: int = 100

    def __post_init__(self):
        check_mask_schedule(self.schedule)
        masked_after(self.schedule, self.steps, 2)  # checks the steps
        guidance_strength(self.guidance, 0.0, self.guidance_schedule)  # checks the schedule
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must be at least 0")


@dataclasses.dataclass(frozen=True)
class MaskedValues:
    """The method; its network is called `(values, condition, masked)` and has `denoise(x, t, z)`.

    Attributes:
      scale: factor of the latents inside.
      repeats: noises, each with a time of its own, that a token is trained with at once.
      schedule: mask ratio gamma(r) of r uniform in [0, 1], see `mask_ratio`.
      condition_dropout: probability that a row trains with the null condition, which guidance needs.
      diffusion: how noise comes to a token.
      settings: recommended sampler settings.
    """

    scale: float = 1.0
    repeats: int = 4
    schedule: str = "arccos"
    condition_dropout: float = 0.1
    diffusion: GaussianDiffusion = GaussianDiffusion()
    settings: MaskedValueSettings = MaskedValueSettings()

    def __post_init__(self):
        check_mask_schedule(self.schedule)
        if self.scale <= 0 or self.repeats < 1:
            raise ValueError(f"scale={self.scale} must be positive and repeats={self.repeats} at least 1")

    @property
    def loss_name(self) -> str:
        """What the loss is; it bounds no likelihood."""
        return "diffusion_loss"

    def example_inputs(self, latents: Latents) -> tuple[Any, ...]:
        """Which tokens are masked."""
        return (jnp.zeros(latents.values.shape[:2], bool),)

    def default_settings(self) -> MaskedValueSettings:
        """Recommended sampler settings."""
        return self.settings

    def loss(
        self,
        apply: Callable[..., Any],
        params: Any,
        latents: Latents,
        condition: Condition | None,
        key: jax.Array,
        codec: Codec | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Error of the noise and bound of the variances, a mean over the masked tokens of each row.

        Args:
          apply: `(params, values, condition, masked) -> z`, and with `method="denoise"` `(params, x, t, z) ->
            (noise, variance)`.
          params: the network's parameters.
          latents: values float32 [B, N, C].
          condition: B rows, or None.
          key: scalar, or one key per example.
          codec: not used.

        Returns:
          The loss, and its parts "noise_error" and "variance_bound".
        """
        del codec
        batch, tokens, channels = latents.values.shape
        keys = random.example_keys(key, batch)
        ratio = mask_ratio(self.schedule, random.uniform(random.fold(keys, 0), ()), tokens)
        count = jnp.maximum(1, jnp.ceil(tokens * ratio)).astype(jnp.int32)
        masked = random_masked(random.uniform(random.fold(keys, 1), (tokens,)), count)
        values = jax.lax.stop_gradient(latents.values) * self.scale
        z = apply(params, values, drop_condition(condition, keys, self.condition_dropout), masked)

        course, several = self.diffusion.course(), self.repeats * tokens
        repeated = lambda x: jnp.tile(x, (1, self.repeats, 1))
        uniform = random.uniform(random.fold(keys, 3), (several,))
        index = jnp.minimum(uniform * self.diffusion.steps, self.diffusion.steps - 1).astype(jnp.int32)
        noise, data = random.normal(random.fold(keys, 4), (several, channels)), repeated(values)
        x = noised(course, index, data, noise)
        predicted, variance = apply(params, x, index, repeated(z), method="denoise")
        terms = diffusion_terms(course, index, data, noise, predicted, variance)
        weight = jnp.tile(masked / count[:, None], (1, self.repeats)) / (self.repeats * batch)
        error, bound = (jnp.sum(jnp.where(weight > 0, term, 0.0) * weight) for term in terms)
        return error + bound, {"noise_error": error, "variance_bound": bound}

    def sample(
        self,
        prior: Prior,
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        batch: int,
        given: Latents | None,
        settings: MaskedValueSettings,
        codec: Codec | None,
    ) -> Latents:
        """Draws all tokens, one scan of scans; see `Prior.sample`. Of `given`, a token is kept where its mask
        [B, N, 1] is True.
        """
        del codec
        keys, tokens = random.example_keys(key, batch), prior.tokens
        guided = bool(settings.guidance) and condition is not None
        doubled = with_unconditional(condition) if guided and condition is not None else condition
        cache = prior.start(params, doubled, tokens, 2 * batch if guided else batch)
        rows = lambda x: jnp.concatenate([x, x]) if guided else x
        values, known = cache.codes[:batch], cache.known[:batch]
        if given is not None:
            known = jnp.asarray(given.mask)[..., 0]
            values = jnp.where(given.mask, given.values * self.scale, 0.0)
        unknown, order = jnp.sum(~known, axis=1), random.uniform(random.fold(keys, 0), (tokens,))
        table = masked_after(settings.schedule, settings.steps, tokens)
        course, own = self.diffusion.course(settings.diffusion_steps), jnp.arange(batch)[:, None]
        everywhere = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
        most = _most_at_once(table)

        def step(carry, index):
            values, known = carry
            z, _ = prior.step(params, cache, rows(values), rows(everywhere), rows(known))
            count = jnp.asarray(table)[index, unknown]
            masked = keep_masked(order, ~known, count)
            # All that become known now, and others to make the number the same in every step.
            positions = jnp.argsort(known | masked, axis=1)[:, :most]
            z = jnp.take_along_axis(z, rows(positions)[..., None], axis=1)
            # At least one is left even in the last step, as in the released sampler.
            progress = (tokens - jnp.maximum(count, 1)) / tokens
            strength = guidance_strength(settings.guidance, progress, settings.guidance_schedule)

            def denoiser(x, t):
                noise, variance = prior.apply(params, rows(x), rows(t), z, method="denoise")
                if not guided:
                    return noise, variance
                return guide_stacked(noise, strength[:, None, None], "c+s(c-u)"), variance[:batch]

            fresh = random.fold(random.fold(keys, 1), index)
            start = random.normal(random.fold(fresh, course.times.size), (most, values.shape[-1]))
            drawn = sample_diffusion(denoiser, start, fresh, course, settings.temperature)
            new = jnp.take_along_axis(~(known | masked), positions, axis=1)
            places = jnp.where(new, positions, tokens)  # positions outside are dropped
            return (values.at[own, places].set(drawn, mode="drop"), ~masked), None

        (values, _), _ = jax.lax.scan(step, (values, known), jnp.arange(settings.steps))
        values = values / self.scale
        return Latents(values=values if given is None else jnp.where(given.mask, given.values, values))


def _most_at_once(table: np.ndarray) -> int:
    """The largest number of tokens that become known in one step, however many are unknown at first."""
    masked = np.concatenate([np.arange(table.shape[1])[None], table])
    return int(np.max(masked[:-1] - masked[1:]))
