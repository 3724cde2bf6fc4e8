"""An image tokenizer whose decoder is generative: tokens say what is in an image, a flow draws one (FlexTok,
arXiv 2502.13967).

Any prefix of the tokens can be decoded. In training nested dropout keeps the first few of each image.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxtok import keys as random
from jaxtok.codes import CodeSpace, Latents, Reconstruction
from jaxtok.decoding.flow import FlowSettings, sample_flow, sample_guided_flow
from jaxtok.nn.images import to_float
from jaxtok.tokenizers.image_tokenizer import Images
from jaxtok.tokenizers.nested_dropout import NestedDropout, kept_tokens, prefix_mask


@dataclasses.dataclass(frozen=True)
class TokenCorruption:
    """Random tokens in training, so that the decoder learns to bear a prior's errors.

    Attributes:
      probability: of an example to be corrupted.
      share: (least, most) share of its tokens that become uniformly random ones.
    """

    probability: float = 0.0
    share: tuple[float, float] = (0.0, 0.1)

    def __call__(
        self, codes: Int[jax.Array, "B N Q"], space: CodeSpace, keys: jax.Array
    ) -> tuple[Bool[jax.Array, "B N"], Int[jax.Array, "B N Q"]]:
        """Which tokens are replaced, and random codes for all; `keys` is one key per example."""
        chosen, part = random.uniform(random.fold(keys, 0), (2,)).T
        least, most = self.share
        part = jnp.where(chosen < self.probability, least + (most - least) * part, 0.0)
        replaced = random.uniform(random.fold(keys, 1), codes.shape[1:2]) < part[:, None]
        levels = jnp.asarray(space.levels)
        drawn = jnp.floor(random.uniform(random.fold(keys, 2), codes.shape[1:]) * levels).astype(jnp.int32)
        return replaced, jnp.minimum(drawn, levels - 1)


class FlowTokenizer(nn.Module):
    """Encoder, quantizer and flow decoder.

    Attributes:
      encoder: images [B, H, W, C] to features [B, N, D]; has `tokens`.
      quantizer: any of `jaxtok.quantize` with a code space.
      decoder: has `conditioning` and `velocity`, such as `FlowDecoder`.
      image_size: (height, width) that `decode` writes by default.
      nested: which prefixes survive in training, see `kept_tokens`.
      null_probability: of dropping the condition of an image in training, which guidance needs.
      corruption: of the tokens in training.
      settings: recommended settings of the sampler.
    """

    encoder: Any
    quantizer: Any
    decoder: Any
    image_size: tuple[int, int]
    nested: NestedDropout = "uniform"
    null_probability: float = 0.1
    corruption: TokenCorruption = TokenCorruption()
    settings: FlowSettings = FlowSettings()

    @property
    def space(self) -> CodeSpace:
        """The alphabet of one token."""
        return self.quantizer.space

    @property
    def tokens(self) -> int:
        """N, tokens per image."""
        return self.encoder.tokens

    def __call__(
        self,
        images: Images,
        train: bool = False,
        key: jax.Array | None = None,
        *,
        x: Float[jax.Array, "B H W C"],
        t: Float[jax.Array, " B"],
        kept: Int[jax.Array, " B"] | None = None,
    ) -> Reconstruction:
        """Velocity of a noised image, conditioned on the tokens of the image.

        Args:
          images: uint8, or float, [B, H, W, C].
          train: keep a random prefix, or nothing at all; corrupt tokens; compute alignment features.
          key: in training, scalar key or one key per example.
          x: noised images.
          t: their times.
          kept: how many tokens the decoder sees; None for all, or for a draw in training.

        Returns:
          A reconstruction without images, but with features: "velocity" [B, H, W, C], and see
          `FlowDecoder.velocity`.

        Raises:
          ValueError: training without a key.
        """
        keys, null = None, None
        if train:
            if key is None:
                raise ValueError("train=True needs a key; pass a scalar key or one key per image")
            keys = random.example_keys(key, images.shape[0])
        quantizer_keys = None if keys is None else random.fold(keys, 0)
        quantized = self.quantizer(self.features(images), train=train, key=quantizer_keys)
        values = quantized.values
        if keys is not None:
            if self.corruption.probability:
                replaced, codes = self.corruption(quantized.codes, self.space, random.fold(keys, 1))
                values = jnp.where(replaced[..., None], self.quantizer.decode(codes), values)
            if kept is None and self.nested != "none":
                kept = kept_tokens(random.uniform(random.fold(keys, 2), ()), self.tokens, self.nested)
            if self.null_probability:
                null = random.uniform(random.fold(keys, 3), ()) < self.null_probability
        mask = None if kept is None else prefix_mask(kept, self.tokens)
        conditioning = self.decoder.conditioning(values, mask, null)
        velocity, features = self.decoder.velocity(x, t, conditioning, train)
        return Reconstruction(quantized, None, {"velocity": velocity, **features})

    def features(self, images: Images) -> Float[jax.Array, "B N D"]:
        """Encoder output before quantization."""
        return self.encoder(jnp.asarray(to_float(images)))

    def encode(self, images: Images) -> Latents:
        """Codes and their embeddings of uint8 or float images [B, H, W, C]."""
        codes = self.quantizer.encode(self.features(images))
        return Latents(codes=codes, values=self.quantizer.decode(codes))

    def embed(self, codes: jax.Array | np.ndarray) -> Float[jax.Array, "B N D"]:
        """Embeddings of codes int32 [B, N, Q]."""
        return self.quantizer.decode(jnp.asarray(codes))

    def decode(
        self,
        latents: Latents | jax.Array | np.ndarray,
        size: Sequence[int] | None = None,
        key: jax.Array | None = None,
        settings: FlowSettings | None = None,
        noise: Float[jax.Array, "B H W C"] | None = None,
    ) -> Float[jax.Array, "B H W C"]:
        """Draws images of latents or codes, float32.

        Args:
          latents: of all N tokens, or of the first n. A `mask` on them drops whole tokens, as the end of a
            prefix is dropped in training.
          size: (height, width); default `image_size`.
          key: scalar key or one key per example, for the noise; default `jax.random.key(0)`.
          settings: of the sampler; default the recommended ones.
          noise: what to start with in place of a draw.

        Raises:
          ValueError: latents with neither codes nor values, or with more tokens than the decoder reads.
        """
        if not isinstance(latents, Latents):
            latents = Latents(codes=latents)
        if latents.codes is None and latents.values is None:
            raise ValueError("latents have neither codes nor values; there is nothing to decode")
        values = jnp.asarray(latents.values) if latents.codes is None else self.embed(latents.codes)
        batch, count, _ = values.shape
        if count > self.tokens:
            raise ValueError(f"{count} tokens, but this decoder reads at most {self.tokens}; leave some out")
        mask = None if latents.mask is None else jnp.all(latents.mask, axis=-1)
        if count < self.tokens:
            missing = self.tokens - count
            values = jnp.pad(values, ((0, 0), (0, missing), (0, 0)))
            mask = jnp.ones((batch, count), bool) if mask is None else mask
            mask = jnp.pad(mask, ((0, 0), (0, missing)))
        settings, conditioning = settings or self.settings, self.decoder.conditioning(values, mask)
        if noise is None:
            height, width = self.image_size if size is None else size
            keys = random.example_keys(jax.random.key(0) if key is None else key, batch)
            noise = random.normal(keys, (height, width, self.decoder.channels))
        return self._draw(noise, conditioning, values, settings)

    def _draw(self, noise, conditioning, values, settings):
        # Inside a loop a bound module cannot be called, its parameters can.
        network, variables = self.decoder.unbind()
        if not settings.guided:
            velocity = lambda x, t: network.apply(variables, x, t, conditioning, method="velocity")[0]
            return sample_flow(velocity, noise, settings.steps)
        null = self.decoder.conditioning(values, null=jnp.ones(values.shape[:1], bool))
        both = jnp.concatenate([conditioning, null])

        def velocities(x, t):
            twice = lambda y: jnp.concatenate([y, y])
            v, _ = network.apply(variables, twice(x), twice(t), both, method="velocity")
            conditional, unconditional = jnp.split(v, 2)
            return conditional, unconditional

        projection = settings.projection if settings.rule == "projected" else None
        return sample_guided_flow(velocities, noise, settings.steps, settings.strength, projection)

    @nn.nowrap
    def update_quantizer(self, state: Any, statistics: Any, key: jax.Array) -> Any:
        """The quantizer's state after one optimizer step, from summed statistics; {} stays {}."""
        return {"quantizer": self.quantizer.update(state["quantizer"], statistics, key)} if state else state
