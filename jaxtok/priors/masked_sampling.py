"""Sampling of a masked prior: settings, one step as a pure function of its noise, and the scanned loop."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.decoding.guidance import (
    NEUTRAL_STRENGTH,
    GuidanceSchedule,
    check_rule,
    check_schedule,
    guidance_strength,
    guide_stacked,
    with_unconditional,
)
from jaxtok.decoding.logits import LogitRules, likeliest
from jaxtok.decoding.unmasking import (
    Rounding,
    check_mask_schedule,
    halton_order,
    keep_masked,
    masked_after,
)
from jaxtok.nn.slots import slot_logits
from jaxtok.priors.contract import Prior

Order = Literal["confidence", "random", "halton"]


@dataclasses.dataclass(frozen=True)
class MaskedSettings:
    """How to sample a masked prior; r is the part of the steps that is done after a step.

    Attributes:
      steps: T, network evaluations.
      schedule: part of the tokens that is masked after each step, see `mask_ratio`.
      order: which tokens become known: the "confidence" of the drawn values, "random" ones, or the "halton"
        order of their places.
      guidance: strength of classifier-free guidance at the end; 0 samples the conditional model alone.
      guidance_rule: what the strength means.
      guidance_schedule: its course from no guidance to `guidance`.
      guidance_power: of the course "power-cosine".
      temperature: of the drawn values, argmax(logits + temperature Gumbel); 0 takes the likeliest.
      temperature_annealed: multiply it by 1 - r (TiTok).
      softmax_annealed: divide logits by 0.5 + 0.8 (1 - r) before drawing (TiTok's option).
      choice_temperature: times (1 - r), of the Gumbel noise on the confidence.
      confidence: "probability", log p of the drawn value (MaskGIT), or "logit", not normalised (TiTok).
      top_k, top_p, min_p: see `LogitRules`.
      start: first step that is run; above 0 where most tokens are given.
      rounding: see `masked_after`.
      grid: (height, width) of the tokens for the Halton order; () for tokens in a row.
      shifted: start the Halton order of each example at a random place of it.
      guidance_start: strength of the guidance at the beginning of its course; None for no guidance.
      guidance_ahead: whether that course counts a step as done while it is made, so that the last step has
        the full strength (MaskGen).
    """

    steps: int = 8
    schedule: str = "arccos"
    order: Order = "confidence"
    guidance: float = 3.0
    guidance_rule: str = "c+s(c-u)"
    guidance_schedule: GuidanceSchedule = "linear"
    guidance_power: float = 1.0
    temperature: float = 1.0
    temperature_annealed: bool = False
    softmax_annealed: bool = False
    choice_temperature: float = 4.5
    confidence: Literal["probability", "logit"] = "probability"
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    start: int = 0
    rounding: Rounding = "masked"
    grid: tuple[int, ...] = ()
    shifted: bool = True
    guidance_start: float | None = None
    guidance_ahead: bool = False

    def __post_init__(self):
        check_mask_schedule(self.schedule)
        check_rule(self.guidance_rule)
        check_schedule(self.guidance_schedule)
        masked_after(self.schedule, self.steps, 2, self.start)  # checks the steps
        LogitRules(top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)
        if self.temperature < 0 or self.choice_temperature < 0:
            raise ValueError(
                f"temperature={self.temperature} and choice_temperature={self.choice_temperature} must be at "
                "least 0"
            )
        if self.order not in ("confidence", "random", "halton"):
            raise ValueError(f"order={self.order!r}; choose 'confidence', 'random' or 'halton'")
        if self.confidence not in ("probability", "logit"):
            raise ValueError(f"confidence={self.confidence!r}; choose 'probability' or 'logit'")

    @classmethod
    def titok(
        cls,
        steps: int = 8,
        temperature: float = 4.5,
        guidance: float = 3.0,
        guidance_schedule: GuidanceSchedule = "linear",
        guidance_power: float = 3.0,
    ) -> "MaskedSettings":
        """TiTok's sampler: one annealed temperature for values and confidence, the confidence a logit, and
        u + s (c - u) where the guidance is "power-cosine".
        """
        rule = "u+s(c-u)" if guidance_schedule == "power-cosine" else "c+s(c-u)"
        return cls(
            steps,
            guidance=guidance,
            guidance_rule=rule,
            guidance_schedule=guidance_schedule,
            guidance_power=guidance_power,
            temperature=temperature,
            temperature_annealed=True,
            choice_temperature=temperature,
            confidence="logit",
        )

    @classmethod
    def maskgen(
        cls, steps: int = 16, temperature: float = 2.0, guidance: float = 12.0, power: float = 1.0
    ) -> "MaskedSettings":
        """MaskGen's sampler (arXiv 2501.07730): TiTok's with annealed logits, and a guidance c + s (c - u)
        whose strength begins at 1.
        """
        settings = cls.titok(steps, temperature, guidance, "power-cosine", power)
        changes = {"guidance_rule": "c+s(c-u)", "guidance_start": 1.0, "guidance_ahead": True}
        return dataclasses.replace(settings, softmax_annealed=True, **changes)

    @classmethod
    def maskgit(cls, steps: int = 12, choice_temperature: float = 4.5) -> "MaskedSettings":
        """MaskGIT's sampler: cosine schedule, no guidance, noise on the log-probability."""
        return cls(steps, "cosine", guidance=0.0, choice_temperature=choice_temperature)

    @classmethod
    def halton(cls, steps: int = 32, guidance: float = 2.0, grid: tuple[int, ...] = ()) -> "MaskedSettings":
        """The Halton sampler (arXiv 2503.17076): constant guidance, tokens spread over the grid."""
        return cls(
            steps,
            order="halton",
            guidance=guidance,
            guidance_schedule="constant",
            choice_temperature=0.0,
            rounding="known",
            grid=grid,
        )

    def strength(self, step: int | jax.Array) -> jax.Array:
        """Strength of the guidance in a step, 0 to T - 1."""
        start = self.guidance_start
        return guidance_strength(
            self.guidance,
            (step + self.guidance_ahead) / self.steps,
            self.guidance_schedule,
            self.guidance_power,
            NEUTRAL_STRENGTH[self.guidance_rule] if start is None else start,
        )


def reveal(
    logits: Float[jax.Array, "B N F"],
    codes: Int[jax.Array, "B N Q"],
    known: Bool[jax.Array, "B N"],
    count: Int[jax.Array, " B"],
    space: CodeSpace,
    settings: MaskedSettings,
    progress: float | jax.Array,
    value_noise: list[jax.Array],
    choice_noise: Float[jax.Array, "B N"],
    rank: Int[jax.Array, "B N"] | None = None,
) -> tuple[Int[jax.Array, "B N Q"], Bool[jax.Array, "B N"]]:
    """One step of masked decoding: draws all unknown tokens and says which of them are known from now on.

    Args:
      logits: after guidance.
      codes: the known tokens.
      known: which they are.
      count: how many tokens stay masked.
      space: of the codes.
      settings: of the sampler.
      progress: r after this step.
      value_noise: per slot, standard Gumbel numbers [B, N, levels].
      choice_noise: standard Gumbel numbers.
      rank: place of each token in the order, for "halton".

    Returns:
      Codes, of the tokens that stay masked too, and which tokens are known.
    """
    rules = LogitRules(top_k=settings.top_k, top_p=settings.top_p, min_p=settings.min_p)
    logits = logits.astype(jnp.float32)
    if settings.softmax_annealed:
        logits = logits / (0.5 + 0.8 * (1 - progress))
    temperature = settings.temperature * (1 - progress if settings.temperature_annealed else 1.0)
    drawn, confidence = [], jnp.zeros(known.shape)
    for values, noise in zip(slot_logits(logits, space), value_noise, strict=True):
        values = rules(values)
        code = likeliest(values + temperature * noise)
        scores = jax.nn.log_softmax(values, axis=-1) if settings.confidence == "probability" else values
        confidence = confidence + jnp.take_along_axis(scores, code[..., None], axis=-1)[..., 0]
        drawn.append(code)
    codes = jnp.where(known[..., None], codes, jnp.stack(drawn, axis=-1))
    if settings.order == "confidence":
        score = confidence + settings.choice_temperature * (1 - progress) * choice_noise
    elif settings.order == "random":
        score = choice_noise
    else:
        score = -jnp.asarray(rank, jnp.float32)
    return codes, ~keep_masked(score, ~known, count)


def sample_masked(
    prior: Prior,
    params: Any,
    condition: Condition | None,
    key: jax.Array,
    batch: int,
    given: Latents | None,
    settings: MaskedSettings,
) -> Latents:
    """Draws latents in `settings.steps` network evaluations; one scan.

    A token is known from the start where all of its slots are given. Of a token that is given in part the
    rest is drawn, and what is given takes the place of what was drawn for it.

    Args:
      prior, params, condition, key, batch, given: see `Prior.sample`.
      settings: of the sampler.

    Raises:
      ValueError: a grid of another number of tokens.
    """
    keys, space, tokens = random.example_keys(key, batch), prior.space, prior.tokens
    guided = bool(settings.guidance) and condition is not None
    doubled = with_unconditional(condition) if guided and condition is not None else condition
    cache = prior.start(params, doubled, tokens, 2 * batch if guided else batch)
    table = jnp.asarray(
        masked_after(settings.schedule, settings.steps, tokens, settings.start, settings.rounding)
    )
    rank = _ranks(settings, keys, tokens) if settings.order == "halton" else None
    codes = jnp.zeros((batch, tokens, space.slots), jnp.int32)
    known = jnp.zeros((batch, tokens), bool)
    if given is not None:
        codes = jnp.where(given.mask, given.codes, 0).astype(jnp.int32)
        known = jnp.all(jnp.asarray(given.mask), axis=-1)
    unknown = jnp.sum(~known, axis=1)

    def rows(x):
        return jnp.concatenate([x, x]) if guided else x

    positions = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))

    def step(carry, index):
        codes, known = carry
        logits, _ = prior.step(params, cache, rows(codes), rows(positions), rows(known))
        if guided:
            strength = settings.strength(index)
            logits = guide_stacked(logits, strength, settings.guidance_rule)
        own = random.fold(keys, index)
        noise = [
            random.gumbel(random.fold(own, q + 1), (tokens, level)) for q, level in enumerate(space.levels)
        ]
        choice, count = random.gumbel(random.fold(own, 0), (tokens,)), table[index - settings.start, unknown]
        progress = (index + 1) / settings.steps
        codes, known = reveal(logits, codes, known, count, space, settings, progress, noise, choice, rank)
        if given is not None:
            codes = jnp.where(given.mask, given.codes, codes)
        return (codes, known), None

    (codes, _), _ = jax.lax.scan(step, (codes, known), jnp.arange(settings.start, settings.steps))
    return Latents(codes=codes)


def _ranks(settings, keys, tokens):
    """Place of each token in the Halton order, int32 [B, N]."""
    order = halton_order(settings.grid or (tokens,))
    if len(order) != tokens:
        raise ValueError(f"grid={settings.grid} has {len(order)} places, this prior {tokens} tokens")
    rank = jnp.argsort(jnp.asarray(order))
    if not settings.shifted:
        return jnp.broadcast_to(rank, (keys.shape[0], tokens))
    shift = jnp.floor(random.uniform(random.fold(keys, settings.steps), ()) * tokens).astype(jnp.int32)
    return (rank + shift[:, None]) % tokens
