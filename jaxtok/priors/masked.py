"""Masked prior: trained to predict masked tokens from the others, sampled in a few parallel steps (MaskGIT,
arXiv 2202.04200; TiTok's generator, arXiv 2406.07550).

A token is masked as a whole, whatever its slots; the slots of a token are drawn independently of each other
given all known tokens, and its confidence is the sum over them. So any code space will do.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.decoding.unmasking import check_mask_schedule, mask_ratio, random_masked
from jaxtok.nn.slots import log_likelihood, slot_logits
from jaxtok.priors.contract import Codec, Metrics, Prior, drop_condition, masked_mean
from jaxtok.priors.masked_sampling import MaskedSettings, sample_masked

__all__ = ["Masked", "MaskedSettings"]


@dataclasses.dataclass(frozen=True)
class Masked:
    """The method of a masked prior; its network is called `(codes, condition, masked)` and sees all tokens.

    Attributes:
      space: alphabet of a token.
      schedule: mask ratio gamma(r) of r uniform in [0, 1], see `mask_ratio`.
      masking: "count" masks exactly max(1, round(N gamma)) tokens, "independent" each token with probability
        gamma (Halton-MaskGIT, arXiv 2503.17076).
      label_smoothing: part of the target that is spread evenly over all values of a slot.
      unmasked_weight: weight of tokens that are not masked, against 1 of those that are.
      weights: "sample" divides each example's loss by its own sum of weights, so that a batch is the mean of
        its micro-batches (MaskGIT); "batch" divides by the sum over the batch (TiTok).
      condition_dropout: probability that a row trains with the null condition, which guidance needs.
      settings: recommended sampler settings.
    """

    space: CodeSpace
    schedule: str = "arccos"
    masking: Literal["count", "independent"] = "count"
    label_smoothing: float = 0.1
    unmasked_weight: float = 0.1
    weights: Literal["sample", "batch"] = "sample"
    condition_dropout: float = 0.1
    settings: MaskedSettings = MaskedSettings()

    def __post_init__(self):
        check_mask_schedule(self.schedule)
        if self.masking not in ("count", "independent") or self.weights not in ("sample", "batch"):
            raise ValueError(
                f"masking={self.masking!r} must be 'count' or 'independent', weights={self.weights!r} "
                "'sample' or 'batch'"
            )
        if not 0 <= self.label_smoothing < 1 or self.unmasked_weight < 0:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} must lie in [0, 1), unmasked_weight="
                f"{self.unmasked_weight} must be at least 0"
            )

    @property
    def loss_name(self) -> str:
        """What the loss is; it bounds no likelihood."""
        return "masked_loss"

    def example_inputs(self, latents: Latents) -> tuple[Any, ...]:
        """Which tokens are masked."""
        return (jnp.zeros(latents.codes.shape[:2], bool),)

    def default_settings(self) -> MaskedSettings:
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
        """Smoothed cross-entropy in nats per slot.

        Args:
          apply: `(params, codes, condition, masked) -> logits`.
          params: the network's parameters.
          latents: codes int32 [B, N, Q]; slots whose `mask` is False have no weight.
          condition: B rows, or None.
          key: scalar, or one key per example.
          codec: not used.

        Returns:
          The loss and "masked_accuracy", how many slots of masked tokens are predicted right.
        """
        del codec
        batch, tokens, _ = latents.codes.shape
        keys = random.example_keys(key, batch)
        present = None if latents.mask is None else jnp.any(latents.mask, axis=-1)
        masked = self.draw_mask(
            random.uniform(random.fold(keys, 0), ()), random.uniform(random.fold(keys, 1), (tokens,)), present
        )
        condition = drop_condition(condition, keys, self.condition_dropout)
        logits = apply(params, latents.codes, condition, masked)
        return self.weighted_loss(logits, latents, masked)

    def draw_mask(
        self,
        time: Float[jax.Array, " B"],
        uniform: Float[jax.Array, "B N"],
        present: Bool[jax.Array, "B N"] | None = None,
    ) -> Bool[jax.Array, "B N"]:
        """Which tokens of each row are masked, from uniform numbers: r per row, and one per token. Of rows
        with lengths a share of the tokens that are `present`.
        """
        tokens = uniform.shape[1]
        ratio = mask_ratio(self.schedule, time, tokens)
        if self.masking == "independent":
            masked = uniform < ratio[:, None]
            return masked if present is None else masked & present
        if present is None:
            return random_masked(uniform, jnp.maximum(1, jnp.round(tokens * ratio)).astype(jnp.int32))
        counts = jnp.maximum(1, jnp.round(jnp.sum(present, axis=1) * ratio)).astype(jnp.int32)
        rank = jnp.argsort(jnp.argsort(jnp.where(present, uniform, 2.0), axis=-1), axis=-1)
        return (rank < counts[:, None]) & present

    def weighted_loss(
        self, logits: Float[jax.Array, "B N F"], latents: Latents, masked: Bool[jax.Array, "B N"]
    ) -> tuple[jax.Array, Metrics]:
        """The loss of given logits and masks, see `loss`."""
        likelihood = log_likelihood(logits, latents.codes, self.space, self.label_smoothing)
        weight = jnp.where(masked, 1.0, self.unmasked_weight)[..., None]
        present = jnp.ones_like(likelihood) if latents.mask is None else latents.mask
        weight = weight * present
        axes = (1, 2) if self.weights == "sample" else (0, 1, 2)
        total = jnp.sum(weight, axis=axes)
        counted = jnp.where(weight > 0, likelihood, 0.0) * weight
        loss = jnp.mean(-jnp.sum(counted, axis=axes) / jnp.maximum(total, 1e-8))
        right = jnp.stack(
            [jnp.argmax(slot, axis=-1) for slot in slot_logits(logits, self.space)], axis=-1
        ) == jnp.asarray(latents.codes)
        accuracy = masked_mean(right.astype(jnp.float32), masked[..., None] & (present > 0))
        return loss, {"masked_accuracy": accuracy}

    def sample(
        self,
        prior: Prior,
        params: Any,
        condition: Condition | None,
        key: jax.Array,
        batch: int,
        given: Latents | None,
        settings: MaskedSettings,
        codec: Codec | None,
    ) -> Latents:
        """Draws all tokens in few network evaluations, see `sample_masked` and `Prior.sample`."""
        del codec
        return sample_masked(prior, params, condition, key, batch, given, settings)
