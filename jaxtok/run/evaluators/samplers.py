"""How an evaluator samples latents: from a prior, from one with other captions, or each slot by itself."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from jaxtok.codes import CodeSpace, Condition, Latents
from jaxtok.config_files import to_json
from jaxtok.priors.contract import Codec, Prior
from jaxtok.priors.independent import sample_independent


@runtime_checkable
class Sampler(Protocol):
    """Draws latents for `SampleEvaluator`; hashable."""

    @property
    def guidances(self) -> tuple[float, ...]:
        """Strengths to compare, the recommended one first; (0,) where there is no guidance."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Settings, for the protocol."""
        ...

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Draws latents; pure.

        Args:
          variables: of this stage.
          frozen: variables of earlier stages and frozen networks, by name.
          batch: what is asked for, named as in training batches: "label", "text", "text_mask", ...
          key: a key per sample.
          guidance: static strength, one of `guidances`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class PriorSampler:
    """`Sampler` of a prior with its recommended settings, and without guidance.

    Attributes:
      prior: the prior.
      condition: (batch, frozen) -> condition.
      codec: `(frozen variables of the tokenizer) -> Codec`, for priors that need one.
    """

    prior: Prior
    condition: Callable[..., Condition | None]
    codec: Callable[[Any], Codec | None] | None = None

    @property
    def guidances(self) -> tuple[float, ...]:
        """The recommended strength, and none."""
        recommended = self.prior.method.default_settings().guidance
        return (recommended, 0.0) if recommended else (0.0,)

    @property
    def description(self) -> dict[str, Any]:
        """Rule and settings."""
        return {
            "prior": type(self.prior.method).__name__,
            "settings": to_json(self.prior.method.default_settings()),
        }

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Samples of what is asked for."""
        settings = dataclasses.replace(self.prior.method.default_settings(), guidance=guidance)
        condition = self.condition(batch, frozen)
        codec = None if self.codec is None else self.codec(frozen.get("tokenizer"))
        return self.prior.sample(
            variables["params"], condition, key, batch=key.shape[0], settings=settings, codec=codec
        )


@dataclasses.dataclass(frozen=True)
class OtherCaptions:
    """`Sampler` with the condition of the next row: what the captions of others make of a picture.

    Attributes:
      sampler: what draws.
    """

    sampler: Sampler

    @property
    def guidances(self) -> tuple[float, ...]:
        """Those of the sampler."""
        return self.sampler.guidances

    @property
    def description(self) -> dict[str, Any]:
        """That of the sampler, and whose captions."""
        return {**self.sampler.description, "captions_of": "the next sample"}

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Samples of the other captions."""
        batch = {name: jax.numpy.roll(array, -1, axis=0) for name, array in batch.items()}
        return self.sampler(variables, frozen, batch, key, guidance)


@dataclasses.dataclass(frozen=True)
class IndependentSampler:
    """`Sampler` of independent slots given the class.

    Attributes:
      space: alphabet of a token.
    """

    space: CodeSpace

    @property
    def guidances(self) -> tuple[float, ...]:
        """None."""
        return (0.0,)

    @property
    def description(self) -> dict[str, Any]:
        """What it is."""
        return {"prior": "independent slots given the class"}

    def __call__(
        self,
        variables: Any,
        frozen: Any,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        guidance: float,
    ) -> Latents:
        """Samples of classes."""
        del frozen, guidance
        return sample_independent(variables["params"]["counts"], batch["label"], self.space, key)
