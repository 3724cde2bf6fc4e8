"""Sampling of a next-scale prior: settings and the loop over scales."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok import keys as random
from jaxtok.codes import Condition, Latents, Layout
from jaxtok.decoding.guidance import (
    NEUTRAL_STRENGTH,
    GuidanceSchedule,
    check_rule,
    check_schedule,
    guidance_strength,
    guide_stacked,
    with_unconditional,
)
from jaxtok.decoding.logits import LogitRules
from jaxtok.decoding.slots import sample_slots
from jaxtok.priors.contract import Codec, Prior
from jaxtok.tokenizers.scale_grid import ScaleCodec


@dataclasses.dataclass(frozen=True)
class NextScaleSettings:
    """How to sample a next-scale prior.

    Attributes:
      guidance: strength of classifier-free guidance at the last scale; 0 samples the conditional model alone.
      guidance_rule: what the strength means.
      guidance_schedule: its course from no guidance at the first scale to `guidance` at the last.
      guidance_power: of the course "power-cosine".
      temperature: divides the logits; 0 takes the most likely values.
      top_k, top_p, min_p: see `LogitRules`.
      smooth: read, and in the end decode, mixtures of codes in place of the drawn ones ("more smooth" in the
        official code; for the eye, not for measurements). The samples then have values and no codes.
    """

    guidance: float = 1.5
    guidance_rule: str = "c+s(c-u)"
    guidance_schedule: GuidanceSchedule = "linear"
    guidance_power: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    smooth: bool = False

    def __post_init__(self):
        check_rule(self.guidance_rule)
        check_schedule(self.guidance_schedule)
        if self.temperature < 0:
            raise ValueError(
                f"temperature={self.temperature} must be at least 0 (0 takes the most likely value)"
            )
        _ = self.rules  # which checks its own numbers

    @property
    def rules(self) -> LogitRules:
        """What changes the logits of a slot beside the temperature."""
        return LogitRules(top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    def strength(self, scale: int, scales: int) -> jax.Array:
        """Strength of guidance at a scale, counted from 0."""
        neutral = NEUTRAL_STRENGTH[self.guidance_rule]
        return guidance_strength(
            self.guidance,
            scale / max(scales - 1, 1),
            self.guidance_schedule,
            self.guidance_power,
            neutral,
        )


def scale_codec(codec: Codec | None, layout: Layout) -> ScaleCodec:
    """The codec, checked.

    Raises:
      ValueError: no `ScaleCodec`, or one of other scales.
    """
    if not isinstance(codec, ScaleCodec):
        raise ValueError(
            f"codec={codec!r}: a next-scale prior reads what its tokenizer makes of coarser scales; pass "
            "codec=ScaleCodec(...)"
        )
    if codec.layout != layout:
        raise ValueError(f"the tokenizer has the scales {codec.layout.scales}, this prior {layout.scales}")
    return codec


def sample_scales(
    prior: Prior,
    params: Any,
    condition: Condition | None,
    key: jax.Array,
    batch: int,
    given: Latents | None,
    settings: NextScaleSettings,
    codec: ScaleCodec,
) -> Latents:
    """Draws latents, one network evaluation per scale. The loop is unrolled, for scales differ in shape.

    A given token takes the place of what was drawn for it, and later scales see it: first scales that are
    given are completed, given cells of every scale are painted around.

    Args:
      prior, params, condition, key, batch, given: see `Prior.sample`.
      settings: of the sampler.
      codec: of the tokenizer.

    Returns:
      Codes; with `settings.smooth` values for the decoder.
    """
    keys, layout, space = random.example_keys(key, batch), codec.layout, prior.space
    guided = bool(settings.guidance) and condition is not None
    doubled = with_unconditional(condition) if guided and condition is not None else condition
    rows = 2 * batch if guided else batch
    cache = prior.start(params, doubled, layout.tokens, rows)
    scales, total, codes = len(layout.scales), codec.start(batch), []
    first = jnp.zeros((batch, layout.scale(0).stop, total.shape[-1]), jnp.float32)
    for scale in range(scales):
        inputs = codec.inputs(total, scale) if scale else first
        inputs = jnp.concatenate([inputs, inputs]) if guided else inputs
        logits, cache = prior.apply(params, cache, inputs, scale, method="step_scale")
        if guided:
            logits = guide_stacked(logits, settings.strength(scale, scales), settings.guidance_rule)
        own, place = random.fold(keys, scale), layout.scale(scale)
        drawn = sample_slots(logits, space, own, settings.temperature, settings.rules)
        known = None
        if given is not None:
            known = jnp.asarray(given.mask)[:, place]
            drawn = jnp.where(known, jnp.asarray(given.codes)[:, place], drawn)
        codes.append(drawn.astype(jnp.int32))
        cells = codec.cell_values(codes[-1], scale)
        if settings.smooth:
            soft = _mixtures(logits, own, settings, scale / max(scales - 1, 1), codec.codebook(scale))
            cells = soft if known is None else jnp.where(known, cells, soft)
        total = codec.add(total, cells, scale)
    if settings.smooth:
        return Latents(values=codec.finish(total))
    return Latents(codes=jnp.concatenate(codes, axis=1))


def _mixtures(logits, keys, settings, progress, codebook):
    """Values under a softmax with Gumbel noise that becomes colder from scale to scale."""
    logits = logits.astype(jnp.float32)
    if settings.temperature:
        logits = settings.rules(logits / settings.temperature)
    logits = logits * (1 + progress)
    noise = random.gumbel(random.fold(keys, 1), logits.shape[1:])
    temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
    weights = jax.nn.softmax((logits + noise) / temperature, axis=-1)
    return jnp.matmul(weights, codebook, precision="highest")
