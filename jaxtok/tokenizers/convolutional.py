"""Convolutional encoders and decoders of signals with 1, 2 or 3 axes, whole or in chunks.

One network with different switches: SEANet as in EnCodec (arXiv 2210.13438) and SpeechTokenizer (arXiv
2308.16692), but for their LSTM, and the networks of DAC (arXiv 2306.06546).

    encoder   convolution, stages of (residual units, activation, strided convolution), activation,
              convolution
    decoder   convolution, stages of (activation, transposed convolution, residual units), activation,
              convolution

A strided kernel is twice as long as its stride. Padded samples become zeros before every layer, so that with
zero padding a signal in a batch of longer ones gets the features that it gets alone.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxtok.nn.convolve import Carry, StreamLayer, frame_mask
from jaxtok.quantize.routing import masked
from jaxtok.tokenizers.convolutional_layers import ConvolutionalShape as ConvolutionalShape

Layers = list[tuple[str, StreamLayer]]


class ConvolutionalEncoder(nn.Module):
    """Signals to features.

    Attributes:
      shape: size and switches.
      dtype: computation dtype.
    """

    shape: ConvolutionalShape
    dtype: Any = jnp.float32

    @property
    def axes(self) -> int:
        """Axes of a signal."""
        return self.shape.axes

    @property
    def hop(self) -> int:
        """Samples per frame along time."""
        return self.shape.hops[0]

    def setup(self):
        for name, layer in self.shape.encoder_layers(self.dtype):
            setattr(self, name, layer)

    def __call__(
        self, x: Float[jax.Array, "B *signal C"], mask: Bool[jax.Array, "B T"] | None = None
    ) -> Float[jax.Array, "B *frames D"]:
        """Features of a frame for every `hop` samples, the last ones begun.

        Args:
          x: signals.
          mask: which samples along time are real; None for all. What others hold has no effect, and frames
            without a real sample are zeros.
        """
        return _whole(self, self.shape.encoder_layers(self.dtype), x, mask)

    def encode_chunk(self, carry: Carry, x: Float[jax.Array, "B *signal C"]) -> tuple[Carry, jax.Array]:
        """The next carry, and the features of the next samples, a multiple of `hop`."""
        return _chunk(self, self.shape.encoder_layers(self.dtype), carry, x)

    @nn.nowrap
    def init_carry(self, batch: int, spatial: tuple[int, ...] = ()) -> Carry:
        """The carry before the first chunk of signals whose axes behind time have these lengths."""
        layers = self.shape.encoder_layers(self.dtype)
        return _init_carry(layers, batch, spatial, self.shape.channels)

    @nn.nowrap
    def frames(self, length: int) -> int:
        """Frames of that many samples along time."""
        return -(-length // self.hop)

    @nn.nowrap
    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Frames along every axis of a signal of that size."""
        return tuple(-(-length // hop) for length, hop in zip(size, self.shape.hops, strict=True))

    @nn.nowrap
    def frame_mask(self, mask: Bool[jax.Array, "B T"]) -> Bool[jax.Array, "B N"]:
        """Which frames have any real sample."""
        return frame_mask(mask, self.hop)


class ConvolutionalDecoder(nn.Module):
    """Features to signals.

    Attributes:
      shape: size and switches.
      dtype: computation dtype.
    """

    shape: ConvolutionalShape
    dtype: Any = jnp.float32

    def setup(self):
        for name, layer in self.shape.decoder_layers(self.dtype):
            setattr(self, name, layer)

    def __call__(
        self, features: Float[jax.Array, "B *frames D"], mask: Bool[jax.Array, "B N"] | None = None
    ) -> Float[jax.Array, "B *signal C"]:
        """Signals of `hop` samples per frame, float32; zeros where the mask of frames along time is False."""
        return self._bound(_whole(self, self.shape.decoder_layers(self.dtype), features, mask))

    def decode_chunk(
        self, carry: Carry, features: Float[jax.Array, "B *frames D"]
    ) -> tuple[Carry, Float[jax.Array, "B *signal C"]]:
        """The next carry, and the samples of the next frames."""
        carry, x = _chunk(self, self.shape.decoder_layers(self.dtype), carry, features)
        return carry, self._bound(x)

    @nn.nowrap
    def init_carry(self, batch: int, spatial: tuple[int, ...] = ()) -> Carry:
        """The carry before the first chunk of features whose axes behind time have these lengths."""
        layers = self.shape.decoder_layers(self.dtype)
        return _init_carry(layers, batch, spatial, self.shape.features)

    @nn.nowrap
    def _bound(self, x):
        x = x.astype(jnp.float32)
        return jnp.tanh(x) if self.shape.tanh else x


def _whole(module: Any, layers: Layers, x: jax.Array, mask: jax.Array | None):
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape} for inputs {x.shape}: it must be {x.shape[:2]}")
    for name, layer in layers:
        # A bias has made something of padding, which the next window would see.
        x = getattr(module, name)(masked(x, mask))
        mask = None if mask is None else layer.output_mask(mask)
    return masked(x, mask)


def _chunk(module: Any, layers: Layers, carry: Carry, x: jax.Array):
    carries = {}
    for name, _ in layers:
        carries[name], x = getattr(module, name).chunk(carry[name], x)
    return carries, x


def _init_carry(layers: Layers, batch: int, spatial: tuple[int, ...], channels: int):
    carries = {}
    for name, layer in layers:
        carries[name] = layer.init_carry(batch, spatial, channels)
        spatial, channels = layer.output(spatial, channels)
    return carries
