"""A trained system in one object: what `jaxtok.load` and `from_pretrained` return."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.codes import NO_CODE, Latents
from jaxtok.modality.contract import Modality
from jaxtok.systems.contract import Request, System


@dataclasses.dataclass(frozen=True)
class Trained:
    """A system and its variables, with jitted methods on arrays as users have them.

        trained = jaxtok.load("runs/instella_t2i-tiny")
        latents = trained.encode(images)                     # codes int32 [B, N, Q]
        images = trained.decode(latents)                     # uint8 [B, H, W, C]
        images, latents = trained.sample(["a handwritten seven"] * 8, prior="diffusion")
        images, latents = trained.sample([7] * 8)            # a prior of classes, the last that was trained

    Attributes:
      system: sizes and assembly, such as `InstellaT2I`.
      variables: by component: "tokenizer", and the priors that were trained.
      record: what is known about them: experiment, data, steps, licence.
    """

    system: System
    variables: Mapping[str, Any]
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def encode(self, values: Any, **options: Any) -> Latents:
        """Latents of examples.

        Args:
          values: an array [B, ...] of the system's modality (images: uint8 or floats), or a batch: arrays by
            name, with masks and texts.
          **options: about the array, such as `value_range` of images in floats: what black and white are.

        Raises:
          ValueError: another dtype, shape or range; or the encoder makes features that are not finite.
        """
        batch = values if isinstance(values, Mapping) else self.system.user_batch(values, **options)
        latents = self._encode(self._part("tokenizer"), batch)
        rows = len(next(iter(batch.values())))
        fine = latents.codes != NO_CODE if latents.codes is not None else jnp.isfinite(latents.values)
        if broken := np.flatnonzero(~np.asarray(fine).reshape(rows, -1).all(axis=1)).tolist():
            raise ValueError(
                f"the encoder makes features that are not finite of {self.modality.noun} {broken[:10]} of "
                f"{rows}; its weights are damaged or too large for the dtype that it computes in"
            )
        return latents

    def decode(self, latents: Latents | Any, *size: Any, **wanted: Any) -> np.ndarray:
        """Examples [B, ...] of latents or codes, as users have them.

        Args:
          latents: of B examples.
          *size: of images, (height, width) in pixels; default the model's own.
          **wanted: what else the decoder reads: `captions`, B texts, of images (TA-TiTok, MaskGen).

        Raises:
          ValueError: something that the decoder does not read, or nothing where it has to.
        """
        if not isinstance(latents, Latents):
            latents = Latents(codes=jnp.asarray(latents))
        rows = (latents.codes if latents.codes is not None else latents.values).shape[0]
        batch = self.system.wanted_batch(rows, *size, **wanted)
        frozen = self._networks if "text" in batch else {}
        return np.asarray(self._decode(self._part("tokenizer"), latents, batch, frozen))

    def reconstruct(self, values: Any, captions: Sequence[str] | None = None, **options: Any) -> np.ndarray:
        """Examples after encoding and decoding, in their own size; options as in `encode`."""
        shape = np.shape(values)
        wanted: dict[str, Any] = {} if captions is None else {"captions": captions}
        return self.decode(self.encode(values, **options), self.system.size_of(shape), **wanted)

    def sample(
        self,
        asked: Request | Sequence[str | int] | int,
        prior: str = "",
        seed: int = 0,
        given: Latents | None = None,
        **settings: Any,
    ) -> tuple[np.ndarray, Latents]:
        """Samples of what is asked for.

        Args:
          asked: a request; or B captions; or for a model with classes B of their numbers; or how many.
          prior: which prior; default the last that was trained.
          seed: of the noise; sample b depends on the seed and on b alone.
          given: codes to keep, see `Prior.sample`.
          **settings: replace recommended sampler settings (guidance, temperature, steps, ...).

        Returns:
          Examples [B, ...] as users have them, and their latents.

        Raises:
          ValueError: the prior was not trained, an unknown setting, or a request that the prior cannot serve.
        """
        prior = prior or self.last_prior
        params = self._part(prior)["params"]
        default = self.system.prior_named(prior).method.default_settings()
        known = {field.name for field in dataclasses.fields(default)}
        if unknown := sorted(set(settings) - known):
            raise ValueError(
                f"sampler settings {unknown} are unknown to the {prior} prior; it has {sorted(known)}"
            )
        request = asked if isinstance(asked, Request) else self.system.request_of(asked)
        given = given if given is not None else request.prefix
        batch = self.system.request_batch(request)
        sample = self._sampler(prior, dataclasses.replace(default, **settings), request.rows)
        lengths = None if request.lengths is None else self.system.token_lengths(request.lengths)
        frozen = {**self._networks, "tokenizer": self.variables.get("tokenizer")}
        latents = sample(params, frozen, batch, jax.random.key(seed), given, lengths)
        decoded = self._decode(frozen["tokenizer"], latents, batch, self._networks)
        return np.asarray(decoded), latents

    def write(
        self,
        folder: str | Path,
        values: np.ndarray,
        names: Sequence[str] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[Path]:
        """Writes examples as files of the modality (PNG, WAV, ...), named by number unless named; `lengths`
        say how much of each is real.
        """
        numbered = [f"{number:06d}" for number in range(len(values))]
        return self.modality.write(Path(folder), values, numbered if names is None else names, lengths)

    @property
    def last_prior(self) -> str:
        """The prior that was trained last.

        Raises:
          ValueError: none was.
        """
        trained = [name for name in self.system.priors if name in self.variables]
        if not trained:
            raise ValueError(f"no prior in this system; it has {sorted(self.variables)}")
        return trained[-1]

    @property
    def modality(self) -> Modality:
        """Kind of signal.

        Raises:
          ValueError: the system has none.
        """
        if self.system.modality is None:
            raise ValueError(f"{type(self.system).__name__} has no signal that is encoded or sampled")
        return self.system.modality

    def _part(self, name: str) -> Any:
        if name not in self.variables:
            raise ValueError(f"no {name!r} in this system; it has {sorted(self.variables)}")
        return self.variables[name]

    @functools.cached_property
    def _networks(self) -> dict[str, Any]:
        """Frozen networks that conditions and decoders need, loaded when the first is."""
        return {name: load() for name, load in self.system.networks().items()}

    @functools.cached_property
    def _encode(self):
        return jax.jit(self.system.encode)

    @functools.cached_property
    def _decode(self):
        def decode(variables, latents, batch, frozen):
            decoded = self.system.decode(variables, latents, batch=batch, frozen=frozen)
            return self.modality.to_user(decoded[self.modality.key])

        return jax.jit(decode)

    @functools.cached_property
    def _samplers(self) -> dict[Any, Any]:
        return {}

    def _sampler(self, name: str, settings: Any, rows: int):
        """The compiled sampler of a prior, kept per settings."""
        if (name, settings, rows) not in self._samplers:
            prior, system = self.system.prior_named(name), self.system

            @jax.jit
            def sample(params, frozen, batch, key, given, lengths):
                condition = system.condition(batch, frozen)
                codec = system.prior_codec(frozen["tokenizer"])
                own = {"given": given, "settings": settings, "codec": codec, "lengths": lengths}
                return prior.sample(params, condition, key, batch=rows, **own)

            self._samplers[name, settings, rows] = sample
        return self._samplers[name, settings, rows]
