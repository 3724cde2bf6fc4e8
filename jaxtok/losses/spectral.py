"""Spectral losses of waveforms: short-time Fourier transforms, mel filters, and distances at several
resolutions; all float32.

Definitions are those of PyTorch and librosa, which the tests compare with:

    stft             `torch.stft` with the periodic Hann window; `normalised` as `torchaudio`'s "window"
    mel_filterbank   `torchaudio.functional.melscale_fbanks`, and with scale="slaney", area=True
                     `librosa.filters.mel`

A waveform is [..., T]; its channels may be among the leading axes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

MelScale = Literal["htk", "slaney"]
_POWER_FLOOR = 1e-14  # of a squared magnitude: the square root has no derivative at 0
_SLANEY_START, _SLANEY_STEP, _SLANEY_MELS = 1000.0, np.log(6.4) / 27, 15.0  # where it turns logarithmic


@dataclasses.dataclass(frozen=True)
class Resolution:
    """One short-time Fourier transform.

    Attributes:
        fft: length of the transform.
        hop: samples between frames; 0 for a quarter of the window.
        window: length of the Hann window, in the middle of the frame; 0 for `fft`.
        mels: number of mel bands, where there are some.
        high: upper edge of the highest band in Hz; 0 for half the sampling rate.
    """

    fft: int
    hop: int = 0
    window: int = 0
    mels: int = 0
    high: float = 0.0

    def __post_init__(self):
        if not 0 <= self.window <= self.fft:
            raise ValueError(f"window={self.window} must be at most fft={self.fft}, or 0 for as long")

    @property
    def step(self) -> int:
        """Samples between frames."""
        return self.hop or (self.window or self.fft) // 4


# Parallel WaveGAN (arXiv 1910.11480), and the mel spectrograms of DAC (arXiv 2306.06546).
WAVEGAN = (Resolution(1024, 120, 600), Resolution(2048, 240, 1200), Resolution(512, 50, 240))
DAC_MELS = tuple(Resolution(32 * 2**i, mels=5 * 2**i) for i in range(7))


def hann(length: int, fft: int = 0) -> Float[np.ndarray, " n"]:
    """The periodic Hann window, with zeros around it up to `fft`."""
    window = np.zeros(max(fft, length), np.float32)
    start = (window.size - length) // 2
    window[start : start + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window


def stft(
    x: Float[jax.Array, "*batch T"],
    resolution: Resolution,
    centre: bool = True,
    normalised: bool = False,
) -> Complex[jax.Array, "*batch F K"]:
    """Short-time Fourier transform: F frames of K = fft / 2 + 1 frequencies.

    Args:
        x: waveforms.
        resolution: frames; its `mels` are not used.
        centre: frames are centred at multiples of the hop, with the waveform reflected at its ends.
        normalised: divided by the root of the sum of the squared window.

    Raises:
        ValueError: a waveform shorter than a frame, or than what is reflected.
    """
    fft, hop = resolution.fft, resolution.step
    if x.shape[-1] < (fft // 2 + 1 if centre else fft):
        raise ValueError(
            f"a waveform of {x.shape[-1]} samples is too short for fft={fft}; use a shorter transform or "
            "longer waveforms"
        )
    x = x.astype(jnp.float32)
    if centre:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(fft // 2, fft // 2)], mode="reflect")
    window = hann(resolution.window or fft, fft)
    window = window / np.sqrt(np.sum(np.square(window))) if normalised else window
    return jnp.fft.rfft(_frames(x, fft, hop) * window)


def magnitude(spectrum: Complex[jax.Array, "..."]) -> Float[jax.Array, "..."]:
    """Absolute values of at least 1e-7, below which there is no gradient."""
    return jnp.sqrt(jnp.maximum(jnp.square(spectrum.real) + jnp.square(spectrum.imag), _POWER_FLOOR))


def hz_to_mel(hz: Float[np.ndarray, "..."], scale: MelScale) -> Float[np.ndarray, "..."]:
    """Mels: `2595 log10(1 + hz / 700)` (HTK), or linear below 1 kHz and logarithmic above (Slaney)."""
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    above = _SLANEY_MELS + np.log(np.maximum(hz, 1e-9) / _SLANEY_START) / _SLANEY_STEP
    return np.where(hz < _SLANEY_START, hz * _SLANEY_MELS / _SLANEY_START, above)


def mel_to_hz(mel: Float[np.ndarray, "..."], scale: MelScale) -> Float[np.ndarray, "..."]:
    """The inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = _SLANEY_START * np.exp(_SLANEY_STEP * (mel - _SLANEY_MELS))
    return np.where(mel < _SLANEY_MELS, mel * _SLANEY_START / _SLANEY_MELS, above)


def mel_filterbank(
    sample_rate: int,
    fft: int,
    mels: int,
    low: float = 0.0,
    high: float = 0.0,
    scale: MelScale = "slaney",
    area: bool = True,
) -> Float[np.ndarray, "K M"]:
    """Triangles over frequencies, whose corners are equally far apart in mels; float32.

    Args:
        sample_rate: in Hz.
        fft: length of the transform; K = fft / 2 + 1.
        mels: M, number of bands.
        low, high: edges in Hz; high=0 for half the sampling rate.
        scale: "htk" or "slaney".
        area: divides every triangle by half its width in Hz, as Slaney does.

    Raises:
        ValueError: edges that are not in order within half the sampling rate, or an unknown scale.
    """
    high = high or sample_rate / 2
    if not 0 <= low < high <= sample_rate / 2 or mels < 1 or scale not in ("htk", "slaney"):
        raise ValueError(
            f"{mels} mels between {low} and {high} Hz with scale={scale!r}: they need 0 <= low < high <= "
            f"{sample_rate / 2}, at least 1 band, and 'htk' or 'slaney'"
        )
    start, stop = hz_to_mel(np.asarray([low, high], np.float64), scale)
    corners = mel_to_hz(np.linspace(start, stop, mels + 2), scale)
    offset = np.linspace(0, sample_rate / 2, fft // 2 + 1)[:, None] - corners  # [K, M + 2]
    width = np.diff(corners)
    rise, fall = offset[:, :-2] / width[:-1], -offset[:, 2:] / width[1:]
    bands = np.maximum(0.0, np.minimum(rise, fall))
    bands = bands * (2 / (corners[2:] - corners[:-2])) if area else bands
    return bands.astype(np.float32)


def multi_resolution_stft_loss(
    x_hat: Float[jax.Array, "*batch T"],
    x: Float[jax.Array, "*same"],
    resolutions: Sequence[Resolution] = WAVEGAN,
) -> Float[jax.Array, ""]:
    """Spectral convergence and log-magnitude distance, the mean over resolutions (arXiv 1910.11480).

        |S - S^|_F / |S|_F + mean |log S - log S^|       S = |stft(x)|

    Args:
        x_hat: reconstructions.
        x: what they should be.
        resolutions: of the transforms.

    Raises:
        ValueError: shapes that differ, or waveforms that are too short.
    """
    _check(x_hat, x)
    total = jnp.zeros((), jnp.float32)
    for resolution in resolutions:
        s_hat, s = (magnitude(stft(y, resolution)) for y in (x_hat, x))
        norms = [jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(y)), _POWER_FLOOR)) for y in (s - s_hat, s)]
        total = total + norms[0] / norms[1] + jnp.mean(jnp.abs(jnp.log(s) - jnp.log(s_hat)))
    return total / len(resolutions)


def mel_spectrogram(
    x: Float[jax.Array, "*batch T"],
    sample_rate: int,
    resolution: Resolution,
    power: float = 1.0,
    scale: MelScale = "slaney",
    area: bool = True,
) -> Float[jax.Array, "*batch F M"]:
    """Mel bands of the magnitudes raised to `power` (librosa's default is 2, that of DAC and HiFi-GAN 1)."""
    bands = mel_filterbank(
        sample_rate, resolution.fft, resolution.mels, high=resolution.high, scale=scale, area=area
    )
    return jnp.dot(magnitude(stft(x, resolution)) ** power, bands, precision="highest")


def multi_scale_mel_loss(
    x_hat: Float[jax.Array, "*batch T"],
    x: Float[jax.Array, "*same"],
    sample_rate: int,
    resolutions: Sequence[Resolution] = DAC_MELS,
    log_weight: float = 1.0,
    magnitude_weight: float = 0.0,
    floor: float = 1e-5,
) -> Float[jax.Array, ""]:
    """Distance of mel spectrograms, the sum over resolutions, as in DAC (arXiv 2306.06546).

        log_weight mean |log10 max(M, floor) - log10 max(M^, floor)| + magnitude_weight mean |M - M^|

    Args:
        x_hat: reconstructions.
        x: what they should be.
        sample_rate: in Hz.
        resolutions: with `mels`.
        log_weight, magnitude_weight: of the terms; DAC's defaults.
        floor: of a band in the logarithm.

    Raises:
        ValueError: shapes that differ, or waveforms that are too short.
    """
    _check(x_hat, x)
    total = jnp.zeros((), jnp.float32)
    for resolution in resolutions:
        m_hat, m = (mel_spectrogram(y, sample_rate, resolution) for y in (x_hat, x))
        logs = jnp.log10(jnp.maximum(m, floor)) - jnp.log10(jnp.maximum(m_hat, floor))
        total = total + log_weight * jnp.mean(jnp.abs(logs))
        total = total + magnitude_weight * jnp.mean(jnp.abs(m - m_hat))
    return total


def _frames(x: jax.Array, length: int, hop: int) -> jax.Array:
    """[..., F, length]: put together from blocks of a hop, because gathers are slow to differentiate."""
    count = 1 + (x.shape[-1] - length) // hop
    parts = -(-length // hop)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(0, (count + parts - 1) * hop - x.shape[-1]))])
    blocks = x[..., : (count + parts - 1) * hop].reshape(*x.shape[:-1], -1, hop)
    return jnp.concatenate([blocks[..., i : i + count, :] for i in range(parts)], axis=-1)[..., :length]


def _check(x_hat: jax.Array, x: jax.Array) -> None:
    if x_hat.shape != x.shape:
        raise ValueError(f"waveforms of shapes {x_hat.shape} and {x.shape} are compared; they must be equal")
