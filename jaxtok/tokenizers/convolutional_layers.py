"""Sizes of convolutional encoders and decoders of signals, and the layers that these are made of."""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.nn.causal_convolution import Convolution, TransposedConvolution
from jaxtok.nn.convolve import Carry, Padding, Size, StreamLayer, per_axis

_FLOOR = 1e-9  # of a frequency


@dataclasses.dataclass(frozen=True)
class ConvolutionalShape:
    """Size and switches of one half.

    Attributes:
      widths: channels at every resolution, from the signal to the features: one more than strides.
      strides: of the stages, from the signal to the features; a number for all axes, or one per axis, time
        first.
      features: D, channels of a frame outside.
      channels: C, of the signal.
      axes: of the signal: 1, 2 or 3.
      dilations: of the residual units of a stage, along all axes.
      window: of the convolution next to the signal.
      latent_window: of the convolution next to the features.
      unit_window: of the dilated convolutions.
      compress: how many times narrower a residual unit is inside.
      shortcut: whether a unit adds its input ("identity"; DAC) or a 1x1 "convolution" of it (EnCodec).
      activation: "elu", or "snake", see `Activation`.
      causal: whether no frame depends on later samples, which chunks need.
      padding: see `Convolution`.
      weight_norm: see `Convolution`.
      tanh: whether the decoder's signal is bounded to [-1, 1] (DAC).
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    strides: tuple[Size, ...] = (2, 4, 5, 8)
    features: int = 128
    channels: int = 1
    axes: int = 1
    dilations: tuple[int, ...] = (1,)
    window: int = 7
    latent_window: int = 7
    unit_window: int = 3
    compress: int = 2
    shortcut: Literal["identity", "convolution"] = "convolution"
    activation: Literal["elu", "snake"] = "elu"
    causal: bool = True
    padding: Padding = "zeros"
    weight_norm: bool = False
    tanh: bool = False

    def __post_init__(self):
        if len(self.widths) != len(self.strides) + 1:
            raise ValueError(
                f"widths={self.widths} must be one more than strides={self.strides}: one per resolution"
            )
        if uneven := [width for width in self.widths if width % self.compress]:
            raise ValueError(f"widths {uneven} do not divide by compress={self.compress}; change one of them")
        for stride in self.strides:
            per_axis(stride, self.axes)

    @property
    def hops(self) -> tuple[int, ...]:
        """Samples per frame along every axis."""
        strides = [per_axis(size, self.axes) for size in (1, *self.strides)]
        return tuple(math.prod(sizes) for sizes in zip(*strides))

    def convolution(self, features: int, window: Size, dtype: Any, **options: Any) -> Convolution:
        """A convolution with these switches, of no module yet."""
        return Convolution(
            features,
            window,
            axes=self.axes,
            causal=self.causal,
            padding=self.padding,
            weight_norm=self.weight_norm,
            dtype=dtype,
            parent=None,
            **options,
        )

    def encoder_layers(self, dtype: Any) -> list[tuple[str, StreamLayer]]:
        """Names and layers, in their order."""
        layers: list[tuple[str, StreamLayer]] = [
            ("conv_in", self.convolution(self.widths[0], self.window, dtype))
        ]
        for i, stride in enumerate(self.strides):
            strides, name = per_axis(stride, self.axes), f"stage_{i}"
            down = self.convolution(self.widths[i + 1], _kernel(strides), dtype, strides=strides)
            layers += self._units(name, self.widths[i], dtype)
            layers += [(f"{name}_activation", self._activation()), (f"{name}_down", down)]
        out = self.convolution(self.features, self.latent_window, dtype)
        return [*layers, ("activation_out", self._activation()), ("conv_out", out)]

    def decoder_layers(self, dtype: Any) -> list[tuple[str, StreamLayer]]:
        """Names and layers, in their order; a stage has the number of the encoder's that it undoes."""
        layers: list[tuple[str, StreamLayer]] = [
            ("conv_in", self.convolution(self.widths[-1], self.latent_window, dtype))
        ]
        for i, stride in reversed(list(enumerate(self.strides))):
            strides, name = per_axis(stride, self.axes), f"stage_{i}"
            up = TransposedConvolution(
                self.widths[i],
                _kernel(strides),
                strides,
                self.axes,
                self.causal,
                weight_norm=self.weight_norm,
                dtype=dtype,
                parent=None,
            )
            layers += [(f"{name}_activation", self._activation()), (f"{name}_up", up)]
            layers += self._units(name, self.widths[i], dtype)
        out = self.convolution(self.channels, self.window, dtype)
        return [*layers, ("activation_out", self._activation()), ("conv_out", out)]

    def _activation(self):
        return Activation(self.activation, parent=None)

    def _units(self, name, width, dtype):
        return [
            (f"{name}_unit_{j}", ResidualUnit(self, width, dilation, dtype, parent=None))
            for j, dilation in enumerate(self.dilations)
        ]


def _kernel(strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(2 * stride if stride > 1 else 1 for stride in strides)


class Activation(StreamLayer):
    """`elu(x)`, or `snake(x) = x + sin(a x)^2 / (a + 1e-9)` with a learned frequency a per channel (arXiv
    2006.08195, as in DAC); float32 inside. Zero stays zero.

    Attributes:
      kind: "elu" or "snake".
    """

    kind: str = "elu"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B *signal C"]) -> Float[jax.Array, "B *signal C"]:
        """The same shape and dtype.

        Raises:
          ValueError: an unknown kind.
        """
        if self.kind == "elu":
            return nn.elu(x)
        if self.kind != "snake":
            raise ValueError(f"activation={self.kind!r}; choose 'elu' or 'snake'")
        alpha = self.param("alpha", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        return (wide + jnp.square(jnp.sin(alpha * wide)) / (alpha + _FLOOR)).astype(x.dtype)


class ResidualUnit(StreamLayer):
    """`x + conv_2(activation(conv_1(activation(x))))`, whose second convolution is 1x1.

    Attributes:
      shape: its switches.
      features: channels.
      dilation: of the first convolution.
      dtype: computation dtype.
    """

    shape: ConvolutionalShape
    features: int
    dilation: int = 1
    dtype: Any = jnp.float32

    def setup(self):
        shape = self.shape
        self.activation_1, self.activation_2 = Activation(shape.activation), Activation(shape.activation)
        self.conv_1 = self._dilated()
        self.conv_2 = shape.convolution(self.features, 1, self.dtype)
        if shape.shortcut == "convolution":
            self.shortcut = shape.convolution(self.features, 1, self.dtype)

    def __call__(self, x: Float[jax.Array, "B *signal C"]) -> Float[jax.Array, "B *signal C"]:
        """The whole signal."""
        return self._add(x, self.conv_1(self.activation_1(x)))

    def chunk(self, carry: Carry, x: Float[jax.Array, "B *signal C"]) -> tuple[Carry, jax.Array]:
        """See `StreamLayer.chunk`; only the dilated convolution keeps anything."""
        carry, y = self.conv_1.chunk(carry, self.activation_1(x))
        return carry, self._add(x, y)

    @nn.nowrap
    def init_carry(self, batch: int, spatial: tuple[int, ...], channels: int) -> Carry:
        """See `StreamLayer.init_carry`."""
        return self._dilated().init_carry(batch, spatial, channels)

    @nn.nowrap
    def _dilated(self) -> Convolution:
        shape = self.shape
        inside = self.features // shape.compress
        return shape.convolution(inside, shape.unit_window, self.dtype, dilation=self.dilation)

    def _add(self, x, y):
        y = self.conv_2(self.activation_2(y))
        return (x if self.shape.shortcut == "identity" else self.shortcut(x)) + y
