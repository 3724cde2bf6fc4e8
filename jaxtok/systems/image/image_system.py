"""A trained image system in one object: what `jaxtok.load` and `from_pretrained` return."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import NO_CODE, Latents
from jaxtok.nn.caption_ids import caption_ids
from jaxtok.nn.images import model_images, to_uint8
from jaxtok.priors.contract import Codec


@dataclasses.dataclass(frozen=True)
class ImageSystem:
    """Model and variables of a tokenizer and its priors, with jitted methods on uint8 images.

        system = jaxtok.load("runs/instella_t2i-tiny")
        latents = system.encode(images)                     # codes int32 [B, N, Q]
        images = system.decode(latents)                     # uint8 [B, H, W, C]
        images, latents = system.sample(["a handwritten seven"] * 8, prior="diffusion")
        images, latents = system.sample([7] * 8, prior="autoregressive")    # a prior of classes

    Attributes:
      model: sizes and assembly, such as `InstellaT2I`.
      variables: by stage: "tokenizer", and the priors that were trained.
      record: what is known about them: experiment, data, steps, licence.
    """

    model: Any
    variables: Mapping[str, Any]
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def encode(self, images: Any, value_range: tuple[int | float, int | float] | None = None) -> Latents:
        """Latents of images [B, H, W, C], uint8 or floats.

        Args:
          images: what to encode.
          value_range: what black and white are in floats: (0, 1), (-1, 1), ...; without it they have to
            be seen to lie in [-1, 1], so floats without a negative value are refused.

        Raises:
          ValueError: another dtype, shape or range; or the encoder makes features that are not finite.
        """
        images = model_images(images, self.model.channels, value_range)
        latents = self._encode(self._part("tokenizer"), images)
        fine = latents.codes != NO_CODE if latents.codes is not None else jnp.isfinite(latents.values)
        if broken := np.flatnonzero(~np.asarray(fine).reshape(len(images), -1).all(axis=1)).tolist():
            raise ValueError(
                f"the encoder makes features that are not finite of images {broken[:10]} of {len(images)}; "
                "its weights are damaged or too large for the dtype that it computes in"
            )
        return latents

    def decode(
        self,
        latents: Latents | Any,
        size: tuple[int, int] | None = None,
        captions: Sequence[str] | None = None,
    ) -> np.ndarray:
        """uint8 images of latents or codes, at `size` (height, width) pixels or the model's own.

        Args:
          latents: of B images.
          size: in pixels.
          captions: B texts, for a decoder that reads them (TA-TiTok, MaskGen).

        Raises:
          ValueError: captions for a decoder that reads none, or none for one that does.
        """
        if not isinstance(latents, Latents):
            latents = Latents(codes=jnp.asarray(latents))
        text = None if captions is None else self._decoder_text(captions)
        if captions is not None and text is None:
            raise ValueError("this decoder reads no captions; leave them out")
        return np.asarray(self._decode(self._part("tokenizer"), latents, size, text))

    def _decoder_text(self, captions: Sequence[Any]) -> Any:
        """What the decoder reads of captions; None if it reads none."""
        if not hasattr(self.model, "decoder_text") or not getattr(self.model, "text_length", True):
            return None
        return self.model.decoder_text(*self._caption_ids(captions), self._networks)

    def _caption_ids(self, captions: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
        text = getattr(self.model, "text", None)
        length = self.model.text_length if text is None else text.length
        ids, mask = caption_ids([str(caption) for caption in captions], length, getattr(text, "path", ""))
        return jnp.asarray(ids), jnp.asarray(mask)

    def reconstruct(
        self,
        images: Any,
        captions: Sequence[str] | None = None,
        value_range: tuple[int | float, int | float] | None = None,
    ) -> np.ndarray:
        """uint8 images after encoding and decoding, at their own size; captions as in `decode`, the range of
        floats as in `encode`.
        """
        images = np.asarray(images)
        return self.decode(self.encode(images, value_range), (images.shape[1], images.shape[2]), captions)

    def sample(
        self,
        captions: Sequence[str | int],
        prior: str = "diffusion",
        seed: int = 0,
        given: Latents | None = None,
        **settings: Any,
    ) -> tuple[np.ndarray, Latents]:
        """Images of captions, or of classes.

        Args:
          captions: B texts; for a model with classes their numbers, also as texts.
          prior: which prior.
          seed: of the noise; sample b depends on the seed and on b alone.
          given: codes to keep, see `Prior.sample`.
          **settings: replace recommended sampler settings (guidance, temperature, steps, ...).

        Returns:
          uint8 images [B, H, W, C] and their latents.

        Raises:
          ValueError: the prior was not trained, an unknown setting, or no number of a class.
        """
        params = self._part(prior)["params"]
        default = self.model.prior_named(prior).method.default_settings()
        known = {field.name for field in dataclasses.fields(default)}
        if unknown := sorted(set(settings) - known):
            raise ValueError(
                f"sampler settings {unknown} are unknown to the {prior} prior; it has {sorted(known)}"
            )
        chosen = dataclasses.replace(default, **settings)
        sample, told = self._sampler(prior, chosen), self._told(captions)
        frozen = {**self._networks, "tokenizer": self._part("tokenizer")} if self._codec else self._networks
        latents = sample(params, frozen, told, jax.random.key(seed), given)
        text = None if self._has_classes else self._decoder_text(captions)
        return np.asarray(self._decode(self._part("tokenizer"), latents, None, text)), latents

    @property
    def _has_classes(self) -> bool:
        return not getattr(self.model, "reads_captions", not hasattr(self.model, "class_condition"))

    @property
    def _codec(self) -> Callable[[Any], Codec] | None:
        """(variables of the tokenizer) -> what the priors read of it, if they do."""
        codec = getattr(self.model, "codec", None)
        return cast(Any, codec) if callable(codec) else None  # `MaskGIT.codec` is the size of its tokenizer

    def _told(self, captions: Sequence[str | int]) -> tuple[jax.Array, ...]:
        """What the condition is made of: labels, or ids and mask of captions."""
        if not self._has_classes:
            return self._caption_ids(captions)
        known = {str(label) for label in range(self.model.classes)}
        if unknown := [caption for caption in captions if str(caption) not in known]:
            raise ValueError(
                f"this model draws classes, and {unknown[:5]} are none; give numbers from 0 to "
                f"{self.model.classes - 1}"
            )
        return (jnp.asarray([int(caption) for caption in captions], jnp.int32),)

    def _part(self, name: str) -> Any:
        if name not in self.variables:
            raise ValueError(f"no {name!r} in this system; it has {sorted(self.variables)}")
        return self.variables[name]

    @functools.cached_property
    def _networks(self) -> dict[str, Any]:
        """Frozen networks that the priors need, loaded at the first sample."""
        return {name: load() for name, load in self.model.networks().items()}

    @functools.cached_property
    def _encode(self):
        return jax.jit(self.model.encode)

    @functools.cached_property
    def _decode(self):
        def decode(variables, latents, size, text):
            told = {} if text is None else {"text": text}
            return to_uint8(self.model.decode(variables, latents, size, **told))

        return jax.jit(decode, static_argnums=2)

    @functools.cached_property
    def _samplers(self) -> dict[Any, Any]:
        return {}

    def _sampler(self, name: str, settings: Any):
        """The compiled sampler of a prior, kept per settings."""
        if (name, settings) not in self._samplers:
            prior = self.model.prior_named(name)

            @jax.jit
            def sample(params, frozen, told, key, given):
                if self._has_classes:
                    condition = self.model.class_condition(*told)
                else:
                    condition = self.model.caption_condition(*told, frozen)
                codec = None if self._codec is None else self._codec(frozen["tokenizer"])
                own = {"given": given, "settings": settings, "codec": codec}
                return prior.sample(params, condition, key, batch=told[0].shape[0], **own)

            self._samplers[name, settings] = sample
        return self._samplers[name, settings]
