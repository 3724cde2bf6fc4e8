"""Discriminators of waveforms [B, T, C]: folded by a period, and of complex spectrograms.

>>> import jax, jax.numpy as jnp
>>> from jaxtok.losses.audio_discriminators import multi_stft
>>> discriminator = multi_stft((64, 32), features=4)
>>> wave = jnp.zeros((2, 256, 1))
>>> variables = discriminator.init(jax.random.key(0), wave)
>>> [one.logits.shape for one in discriminator.apply(variables, wave, method="discriminate")]
[(2, 13, 5, 1), (2, 29, 3, 1)]
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxtok.losses.discriminators import Discrimination, Several
from jaxtok.losses.spectral import Resolution, stft
from jaxtok.nn.convolve import Size, bias, convolve, pad, per_axis, weight


class CentredConvolution(nn.Module):
    """A convolution of two axes with `(kernel - 1) dilation // 2` zeros at every side, as PyTorch pads.

    Attributes:
        features: channels that come out.
        kernel, strides, dilation: a number for both axes or one each.
        weight_norm: see `jaxtok.nn.causal_convolution.Convolution`.
        dtype: computation dtype.
    """

    features: int
    kernel: Size
    strides: Size = 1
    dilation: Size = 1
    weight_norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B h w E"]:
        kernel = per_axis(self.kernel, 2)
        sides = [(k - 1) * d // 2 for k, d in zip(kernel, per_axis(self.dilation, 2))]
        weights = weight(self, (*kernel, x.shape[-1], self.features), nn.initializers.lecun_normal())
        paddings = [(side, side) for side in sides]
        y = convolve(x.astype(self.dtype), weights, self.strides, paddings, self.dilation)
        return y + bias(self, self.features)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every `period`-th sample (HiFi-GAN, arXiv 2010.05646): all strided but the last but
    one; leaky ReLU 0.1.

    Attributes:
        period: samples between neighbours; the waveform is reflected at its end to a multiple.
        widths: channels of the convolutions before the last.
        kernel, stride: of these along time; the last of them has stride 1.
        dtype: computation dtype; parameters and logits are float32.
    """

    period: int
    widths: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    kernel: int = 5
    stride: int = 3
    dtype: Any = jnp.float32

    def __call__(self, x: Float[jax.Array, "B T C"]) -> Float[jax.Array, "B h P 1"]:
        """Float32 logits; positive means real."""
        return self.discriminate(x).logits

    @nn.compact
    def discriminate(self, x: Float[jax.Array, "B T C"]) -> Discrimination:
        """The logits, and the outputs of all convolutions: as published, the logits are the last of them."""
        x = pad(x, 1, (0, -x.shape[1] % self.period), "reflect")
        x, features = x.reshape(x.shape[0], -1, self.period, x.shape[-1]), []
        for i, width in enumerate(self.widths):
            stride = self.stride if i < len(self.widths) - 1 else 1
            conv = CentredConvolution(
                width, (self.kernel, 1), (stride, 1), dtype=self.dtype, name=f"conv_{i}"
            )
            x = nn.leaky_relu(conv(x), 0.1)
            features.append(x)
        logits = CentredConvolution(1, (3, 1), dtype=self.dtype, name="head")(x).astype(jnp.float32)
        return Discrimination(logits, (*features, logits))


class STFTDiscriminator(nn.Module):
    """Convolutions over a complex spectrogram (EnCodec, arXiv 2210.13438): one of 3x9 (frames x frequencies),
    some with stride 2 along frequencies that are dilated along frames, two of 3x3; leaky ReLU 0.2.

    Attributes:
        fft: length of the transform and its window; the hop is a quarter. Frames are not centred, and are
            divided by the root of the sum of the squared window.
        features: channels.
        dilations: along frames, of the strided convolutions.
        kernel: frames and frequencies.
        dtype: computation dtype; spectrograms, parameters and logits are float32.
    """

    fft: int = 1024
    features: int = 32
    dilations: tuple[int, ...] = (1, 2, 4)
    kernel: tuple[int, int] = (3, 9)
    dtype: Any = jnp.float32

    def __call__(self, x: Float[jax.Array, "B T C"]) -> Float[jax.Array, "B h w 1"]:
        """Float32 logits; positive means real."""
        return self.discriminate(x).logits

    @nn.compact
    def discriminate(self, x: Float[jax.Array, "B T C"]) -> Discrimination:
        """The logits, and the features behind every convolution but the last.

        Raises:
            ValueError: a waveform shorter than the transform.
        """
        spectrum = stft(jnp.moveaxis(x, -1, 1), Resolution(self.fft), centre=False, normalised=True)
        z = jnp.moveaxis(jnp.concatenate([spectrum.real, spectrum.imag], axis=1), 1, -1)
        square = (self.kernel[0], self.kernel[0])
        layers = [dict(kernel=self.kernel, weight_norm=False)]  # as in the official code, the first has none
        layers += [dict(kernel=self.kernel, strides=(1, 2), dilation=(d, 1)) for d in self.dilations]
        layers += [dict(kernel=square)]
        features = []
        for i, options in enumerate(layers):
            conv = CentredConvolution(self.features, dtype=self.dtype, name=f"conv_{i}", **options)  # pyright: ignore
            z = nn.leaky_relu(conv(z), 0.2)
            features.append(z)
        logits = CentredConvolution(1, square, dtype=self.dtype, name="head")(z).astype(jnp.float32)
        return Discrimination(logits, tuple(features))


def multi_period(periods: tuple[int, ...] = (2, 3, 5, 7, 11), **options: Any) -> Several:
    """HiFi-GAN's discriminators, one per period; options as of `PeriodDiscriminator`."""
    return Several(tuple(PeriodDiscriminator(period, **options) for period in periods))


def multi_stft(ffts: tuple[int, ...] = (1024, 2048, 512), **options: Any) -> Several:
    """EnCodec's discriminators, one per resolution; options as of `STFTDiscriminator`."""
    return Several(tuple(STFTDiscriminator(fft, **options) for fft in ffts))
