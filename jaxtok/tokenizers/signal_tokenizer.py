"""Encoder, quantizer and decoder of signals with 1, 2 or 3 axes put together: sound, motion, grids, video.

Tokens are the frames of the encoder, row by row with time slowest. Signals may have lengths: a mask says
which samples along time are real. A causal encoder and decoder also code chunk by chunk, with the same codes.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxtok.codes import NO_CODE, Latents, Layout, Reconstruction
from jaxtok.nn.convolve import Carry
from jaxtok.quantize.routing import masked
from jaxtok.tokenizers.quantizer_state import QuantizerTokenizer

Mask = Bool[jax.Array | np.ndarray, "B T"] | None


class SignalTokenizer(QuantizerTokenizer):
    """A tokenizer of float signals [B, T, C], [B, H, W, C] or [B, T, H, W, C] from its parts.

    Attributes:
      encoder: signals and a mask to features [B, *frames, D], such as `ConvolutionalEncoder`; has `axes`,
        `grid`, `frame_mask`, `encode_chunk` and `init_carry`.
      quantizer: any of `jaxtok.quantize`; one that takes a mask where signals have lengths. One without a
        code space makes continuous latents.
      decoder: values [B, *frames, D] and a mask of frames to signals of at least the length that was encoded,
        such as `ConvolutionalDecoder`; has `decode_chunk` and `init_carry`.
      size: lengths of all axes of a usual signal, time first, which `decode` writes by default; ()
        for a signal of one axis as long as its tokens say.
    """

    encoder: Any
    quantizer: Any
    decoder: Any
    size: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """N, tokens of a usual signal."""
        return self.layout.tokens

    @property
    def layout(self) -> Layout:
        """Structure along the token axis of a usual signal.

        Raises:
          ValueError: there is no usual size.
        """
        if not self.size:
            raise ValueError("size=(): the tokens are as many as the signal is long; set `size` for a number")
        return Layout(int(np.prod(self.encoder.grid(self.size))))

    def __call__(
        self,
        x: Float[jax.Array | np.ndarray, "B *signal C"],
        train: bool = False,
        key: jax.Array | None = None,
        temperature: float | jax.Array | None = None,
        mask: Mask = None,
    ) -> Reconstruction:
        """Encodes, quantizes and decodes; the reconstruction is as long as the input, and zero in padding.

        Args:
          x: signals in the range of the network.
          train: sample the quantizer's noise.
          key: scalar key or one key per example; default the "quantizer" stream of `rngs`.
          temperature: of the quantizer's sampling; default its own.
          mask: which samples along time are real; None for all. What others hold has no effect.
        """
        size, real = x.shape[1:-1], {} if mask is None else {"mask": self.token_mask(x, mask)}
        quantized = self.quantizer(
            self.features(x, mask), train=train, key=key, temperature=temperature, **real
        )
        frames = None if mask is None else self.encoder.frame_mask(jnp.asarray(mask))
        x_hat = self._signal(quantized.values, size, frames)
        return Reconstruction(quantized, masked(x_hat, None if mask is None else jnp.asarray(mask)))

    def features(
        self, x: Float[jax.Array | np.ndarray, "B *signal C"], mask: Mask = None
    ) -> Float[jax.Array, "B N D"]:
        """Encoder output before quantization; zeros where a frame has no real sample."""
        self._check(x.ndim - 2)
        z = self.encoder(jnp.asarray(x), None if mask is None else jnp.asarray(mask))
        return z.reshape(z.shape[0], -1, z.shape[-1])

    @nn.nowrap
    def token_mask(self, x: Float[jax.Array | np.ndarray, "B *signal C"], mask: Mask) -> jax.Array:
        """bool [B, N], which tokens have any real sample along time."""
        cells = int(np.prod(self.encoder.grid(x.shape[1:-1])[1:]))
        return jnp.repeat(self.encoder.frame_mask(jnp.asarray(mask)), cells, axis=1)

    def encode(self, x: Float[jax.Array | np.ndarray, "B *signal C"], mask: Mask = None) -> Latents:
        """Codes and their embeddings; values only where latents are continuous.

        Features that are not finite have no nearest code: their codes are `NO_CODE`, their values NaN.
        Padding has code 0, values 0, and a False in `Latents.mask` [B, N, Q], which there is iff there is a
        mask.
        """
        real = None if mask is None else self.token_mask(x, mask)
        return self._latents(self.features(x, mask), real)

    def decode(
        self, latents: Latents | jax.Array | np.ndarray, size: int | Sequence[int] | None = None
    ) -> Float[jax.Array, "B *signal C"]:
        """Signals of latents or codes, float32, of exactly the lengths asked for.

        A `mask` on the latents drops whole tokens: their embeddings become zero, and so do the samples of
        frames without any token.

        Args:
          latents: codes int32 [B, N, Q] or of the first slots alone, or latents.
          size: lengths of all axes, or T for a signal of one axis; default `size`, and without that all
            samples of the frames.

        Raises:
          ValueError: latents with neither codes nor values, no size where one is needed, or one that has
            another number of tokens.
        """
        values, present = self._values(latents)
        size = self._size(size, values.shape[1])
        grid = self.encoder.grid(size)
        if int(np.prod(grid)) != values.shape[1]:
            raise ValueError(
                f"{values.shape[1]} tokens do not make a signal of size {size}, which has {grid} frames; say "
                "the size that was encoded"
            )
        if present is not None:
            present = jnp.any(present.reshape(present.shape[0], grid[0], -1), axis=-1)
        return self._signal(values, size, present)

    @nn.nowrap
    def init_carry(self, batch: int) -> Carry:
        """What `encode_chunk` ("encoder") and `decode_chunk` ("decoder") start with."""
        size = self._size(None, 1)
        carry = {"encoder": self.encoder.init_carry(batch, size[1:])}
        return {**carry, "decoder": self.decoder.init_carry(batch, self.encoder.grid(size)[1:])}

    def encode_chunk(
        self, carry: Carry, x: Float[jax.Array | np.ndarray, "B *signal C"]
    ) -> tuple[Carry, Latents]:
        """The next carry, and the latents of the next samples, a multiple of the encoder's hop; all chunks
        one behind the other have the latents of the whole signal.
        """
        self._check(x.ndim - 2)
        state, z = self.encoder.encode_chunk(carry["encoder"], jnp.asarray(x))
        return {**carry, "encoder": state}, self._latents(z.reshape(z.shape[0], -1, z.shape[-1]), None)

    def decode_chunk(
        self, carry: Carry, latents: Latents | jax.Array | np.ndarray
    ) -> tuple[Carry, Float[jax.Array, "B *signal C"]]:
        """The next carry, and the samples of the next tokens, whole frames; all chunks one behind the other
        are the signal that `decode` makes.
        """
        values, _ = self._values(latents)
        size = self._size(None, 1)
        cells = self.encoder.grid(size)[1:]
        values = values.reshape(values.shape[0], -1, *cells, values.shape[-1])
        state, x = self.decoder.decode_chunk(carry["decoder"], values)
        return {**carry, "decoder": state}, _cut(x, (x.shape[1], *size[1:]))

    def _latents(self, features: jax.Array, real: jax.Array | None) -> Latents:
        if self.space is None:
            values = masked(self.quantizer.latents(features), real)
            return Latents(values=values, mask=None if real is None else real[..., None])
        finite = jnp.all(jnp.isfinite(features), axis=-1, keepdims=True)
        codes = jnp.where(finite, self.quantizer.encode(features), NO_CODE)
        values = jnp.where(finite, self.quantizer.decode(jnp.maximum(codes, 0)), jnp.nan)
        if real is None:
            return Latents(codes=codes, values=values)
        every = jnp.broadcast_to(real[..., None], codes.shape)
        return Latents(masked(codes, real), masked(values, real), every)

    def _values(self, latents: Latents | jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array | None]:
        """Embeddings, zero where a token is dropped, and which ones are not."""
        if not isinstance(latents, Latents):
            latents = Latents(codes=latents)
        if latents.codes is None and latents.values is None:
            raise ValueError("latents have neither codes nor values; there is nothing to decode")
        values = jnp.asarray(latents.values) if latents.codes is None else self.embed(latents.codes)
        present = None if latents.mask is None else jnp.all(jnp.asarray(latents.mask), axis=-1)
        return masked(values, present), present

    def _signal(self, values: jax.Array, size: tuple[int, ...], frames: jax.Array | None) -> jax.Array:
        grid = self.encoder.grid(size)
        return _cut(self.decoder(values.reshape(values.shape[0], *grid, values.shape[-1]), frames), size)

    @nn.nowrap
    def _size(self, size: int | Sequence[int] | None, tokens: int) -> tuple[int, ...]:
        if isinstance(size, int):
            size = (size,)
        elif size is None:
            size = self.size or ((tokens * self.encoder.hop,) if self.encoder.axes == 1 else ())
        size = tuple(size)
        if len(size) != self.encoder.axes:
            raise ValueError(
                f"size={size} for signals of {self.encoder.axes} axes; give the length of each, or set the "
                "tokenizer's `size`"
            )
        return size

    @nn.nowrap
    def _check(self, axes: int) -> None:
        if axes != self.encoder.axes:
            raise ValueError(
                f"a signal of {axes} axes between batch and channels, but the encoder is for "
                f"{self.encoder.axes}; reshape the signal"
            )


def _cut(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The first entries along every axis."""
    return x[(slice(None), *(slice(length) for length in size))]
