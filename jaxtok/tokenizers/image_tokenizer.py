"""Encoder, quantizer and decoder of images put together, whatever each of them is."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from jaxtok.codes import NO_CODE, Condition, Latents, Layout, Reconstruction
from jaxtok.nn.images import to_float
from jaxtok.tokenizers.quantizer_state import QuantizerTokenizer

Images = Shaped[jax.Array | np.ndarray, "B H W C"]  # uint8, or float in [-1, 1]


class ImageTokenizer(QuantizerTokenizer):
    """An image tokenizer from its parts.

    Attributes:
      encoder: float images [B, H, W, C] to features [B, N, D]; has `tokens`.
      quantizer: any of `jaxtok.quantize`; one without a code space makes continuous latents.
      decoder: `(values [B, N, D], (height, width), train) -> (images or None, features)`; one that reads text
        too takes it as `text`.
      image_size: (height, width) that `decode` writes by default.
    """

    encoder: Any
    quantizer: Any
    decoder: Any
    image_size: tuple[int, int]

    @property
    def tokens(self) -> int:
        """N, tokens per image."""
        return self.layout.tokens

    @property
    def layout(self) -> Layout:
        """Structure along the token axis: the scales of a quantizer that has some."""
        return getattr(self.quantizer, "layout", None) or Layout(self.encoder.tokens)

    def __call__(
        self,
        images: Images,
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        text: Float[jax.Array, "B T F"] | Condition | None = None,
    ) -> Reconstruction:
        """Encodes, quantizes and decodes at the resolution of the input.

        Args:
          images: uint8, or float in [-1, 1], [B, H, W, C].
          train: sample the quantizer's noise, compute alignment features.
          key: scalar key or one key per example; default the "quantizer" stream of `rngs`.
          temperature: of the quantizer's sampling; default its own.
          text: features of text tokens, or what its encoder makes them of, for a decoder that reads them.
        """
        images = jnp.asarray(to_float(images))
        quantized = self.quantizer(self.encoder(images), train=train, key=key, temperature=temperature)
        size = (images.shape[1], images.shape[2])
        x_hat, features = self.decoder(quantized.values, size, train, **_text(text))
        return Reconstruction(quantized, x_hat, features)

    def features(self, images: Images) -> Float[jax.Array, "B K D"]:
        """Encoder output before quantization."""
        return self.encoder(jnp.asarray(to_float(images)))

    def logits(self, images: Images) -> Float[jax.Array, "B K n"]:
        """Bit logits, for quantizers that have them."""
        return self.quantizer.logits(self.features(images))

    def encode(self, images: Images) -> Latents:
        """Codes and their embeddings of uint8 or float [-1, 1] images [B, H, W, C]; values only where latents
        are continuous, codes only where several of them make a value (scales).

        Features that are not finite have no nearest code: their codes are `NO_CODE`, their values NaN.
        """
        features = self.features(images)
        if self.space is None:
            return Latents(values=self.quantizer.latents(features))
        finite = jnp.all(jnp.isfinite(features), axis=-1, keepdims=True)
        if self.layout.scales:  # a code of a scale is of many cells
            finite = jnp.all(finite, axis=1, keepdims=True)
        codes = jnp.where(finite, self.quantizer.encode(features), NO_CODE)
        if self.layout.scales:
            return Latents(codes=codes)
        values = self.quantizer.decode(jnp.maximum(codes, 0))
        return Latents(codes=codes, values=jnp.where(finite, values, jnp.nan))

    def decode(
        self,
        latents: Latents | jax.Array | np.ndarray,
        size: Sequence[int] | None = None,
        text: Float[jax.Array, "B T F"] | Condition | None = None,
    ) -> Float[jax.Array, "B H W C"]:
        """Images of latents or codes, float32 around [-1, 1], at `size` (height, width) pixels; default
        `image_size`. Of scales the first ones will do.

        A `mask` on the latents drops whole tokens: their embeddings become zero. `text` is for decoders that
        read features of text tokens.

        Raises:
          ValueError: latents with neither codes nor values, a size that does not fit the patches, or a
            decoder that makes no images.
        """
        if not isinstance(latents, Latents):
            latents = Latents(codes=latents)
        if latents.codes is None and latents.values is None:
            raise ValueError("latents have neither codes nor values; there is nothing to decode")
        if latents.codes is not None and latents.mask is not None and self.layout.scales:
            present = jnp.all(latents.mask, axis=-1)
            values = self.quantizer.decode(jnp.asarray(latents.codes), present)
        else:
            values = jnp.asarray(latents.values) if latents.codes is None else self.embed(latents.codes)
            if latents.mask is not None:
                values = jnp.where(jnp.all(latents.mask, axis=-1, keepdims=True), values, 0.0)
        height, width = self.image_size if size is None else size
        images, features = self.decoder(values, (height, width), **_text(text))
        if images is None:
            raise ValueError(
                f"this decoder makes {sorted(features)} and no images; give it what makes images of them"
            )
        return images


def _text(text: jax.Array | Condition | None) -> dict[str, Any]:
    """Decoders that read no text do not know the argument."""
    return {} if text is None else {"text": text}
