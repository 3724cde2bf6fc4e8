"""Next-scale prior (VAR, arXiv 2404.02905): all tokens of a scale are drawn at once, independently of each
other given the scales before.

It needs the frozen tokenizer (a `ScaleCodec`): what the network reads for a scale is the sum of the scales
before it at the size of that scale. So one network evaluation per scale draws an image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Condition, Latents, Layout
from jaxtok.nn.slots import log_likelihood
from jaxtok.priors.contract import Codec, Metrics, Prior, drop_condition
from jaxtok.priors.next_scale_sampling import NextScaleSettings, sample_scales, scale_codec

__all__ = ["NextScale", "NextScaleSettings"]


@dataclasses.dataclass(frozen=True)
class NextScale:
    """The method of a next-scale prior; its network is called `(codes, condition, inputs, branches)`.

    Attributes:
      space: alphabet of a token.
      layout: the scales.
      features: channels of what the network reads.
      condition_dropout: probability that a row trains with the null condition, which guidance needs.
      drop_path: per layer, the probability that a half of its block adds nothing to an example (stochastic
        depth, arXiv 1603.09382); () for never.
      trained_scales: how many scales, from the first, are trained (progressive training); 0 for all.
      newest_weight: weight of the last of them, against 1 of the others; the official recipe lets it grow
        from 0.01 to 1 while a scale is new.
      settings: recommended sampler settings.
    """

    space: CodeSpace
    layout: Layout
    features: int
    condition_dropout: float = 0.1
    drop_path: tuple[float, ...] = ()
    trained_scales: int = 0
    newest_weight: float = 1.0
    settings: NextScaleSettings = NextScaleSettings()

    def __post_init__(self):
        scales = len(self.layout.scales)
        if not 0 <= self.trained_scales <= scales or self.newest_weight < 0:
            raise ValueError(
                f"trained_scales={self.trained_scales} must lie in 0 .. {scales}, newest_weight="
                f"{self.newest_weight} must be at least 0"
            )
        if any(not 0 <= rate < 1 for rate in self.drop_path):
            raise ValueError(f"drop_path={self.drop_path}: probabilities lie in [0, 1)")

    @property
    def loss_name(self) -> str:
        """What the loss is: the likelihood, or of the first scales alone a loss."""
        return "first_scales_loss" if self.trained_scales else "nll"

    def example_inputs(self, latents: Latents) -> tuple[Any, ...]:
        """What the tokenizer makes of coarser scales."""
        rows, first = latents.codes.shape[0], self.layout.scale(0).stop
        return (jnp.zeros((rows, self.layout.tokens - first, self.features), jnp.float32),)

    def default_settings(self) -> NextScaleSettings:
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
        """Cross-entropy in nats per slot, every token of every scale alike.

        Args:
          apply: `(params, codes, condition, inputs, branches) -> logits`.
          params: the network's parameters.
          latents: codes int32 [B, N, Q], `mask` marks the slots that count.
          condition: B rows, or None.
          key: scalar, or one key per example.
          codec: of the tokenizer.

        Returns:
          The loss, "bits_per_token", and "nll_last_scale" of the last trained scale alone.

        Raises:
          ValueError: no `ScaleCodec`.
        """
        scales = scale_codec(codec, self.layout)
        codes = jnp.asarray(latents.codes)
        keys = random.example_keys(key, codes.shape[0])
        condition = drop_condition(condition, keys, self.condition_dropout)
        last = self.layout.scale((self.trained_scales or len(self.layout.scales)) - 1)
        inputs = scales.next_inputs(codes)[:, : last.stop - self.layout.scale(0).stop]
        codes = codes[:, : last.stop]
        branches = self.draw_branches(keys) if self.drop_path else None
        logits = apply(params, codes, condition, inputs, branches)
        nll = -log_likelihood(logits, codes, self.space)
        counts = (
            jnp.ones_like(nll) if latents.mask is None else latents.mask[:, : last.stop].astype(nll.dtype)
        )
        nll = jnp.where(counts > 0, nll, 0.0)
        weights = np.ones((last.stop, 1), np.float32)
        weights[last] = self.newest_weight
        # As officially: a batch of fewer scales, or of a light one, has a smaller loss.
        whole = self.layout.tokens / last.stop
        mean = jnp.sum(nll * counts * weights) / jnp.maximum(whole * jnp.sum(counts), 1)
        newest = jnp.sum((nll * counts)[:, last]) / jnp.maximum(jnp.sum(counts[:, last]), 1)
        bits = jnp.sum(nll * counts) / jnp.maximum(jnp.sum(counts), 1) * codes.shape[-1] / jnp.log(2.0)
        return mean, {"bits_per_token": bits, "nll_last_scale": newest}

    def draw_branches(self, keys: jax.Array) -> Float[jax.Array, "L 2 B"]:
        """What each half of each block is multiplied by for each example, one key each: 0, or the inverse of
        the probability that it is not.
        """
        kept = 1 - jnp.asarray(self.drop_path, jnp.float32)[:, None]
        drawn = random.uniform(random.fold(keys, 3), (len(self.drop_path), 2)) < kept
        return jnp.moveaxis(drawn / kept, 0, -1)

    def sample(
        self,
        prior: Prior,
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        batch: int,
        given: Latents | None,
        settings: NextScaleSettings,
        codec: Codec | None,
    ) -> Latents:
        """Draws the scales in order, one network evaluation each, see `Prior.sample` and `sample_scales`."""
        scales = scale_codec(codec, self.layout)
        return sample_scales(prior, params, condition, key, batch, given, settings, scales)
