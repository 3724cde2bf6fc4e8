"""Spectral losses: transforms as PyTorch's, mel filters as written out, distances that behave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses.spectral import (
    DAC_MELS,
    WAVEGAN,
    Resolution,
    hann,
    hz_to_mel,
    magnitude,
    mel_filterbank,
    mel_spectrogram,
    mel_to_hz,
    multi_resolution_stft_loss,
    multi_scale_mel_loss,
    stft,
)
from tests.filled import normal

X, OTHER = normal(2, 200), normal(2, 200, seed=1)
SMALL = (Resolution(32, 10, 24, mels=5), Resolution(64, mels=8))


@pytest.mark.slow  # parity
@pytest.mark.parametrize("centre, normalised", [(True, False), (False, True)])
@pytest.mark.parametrize("resolution", [Resolution(32, 10, 24), Resolution(64), Resolution(16, 20)])
def test_as_torch(resolution, centre, normalised):
    torch = pytest.importorskip("torch")
    length = resolution.window or resolution.fft
    window = torch.hann_window(length)
    expected = torch.stft(
        torch.tensor(np.asarray(X)),
        resolution.fft,
        resolution.step,
        length,
        window,
        center=centre,
        return_complex=True,
    ).numpy()
    expected = expected / np.sqrt(np.sum(window.numpy() ** 2)) if normalised else expected
    found = stft(X, resolution, centre, normalised)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 1), atol=1e-4)


def test_a_transform_as_written_out():
    resolution, x = Resolution(8, 3, 6), np.asarray(X[0], np.float64)
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(6) / 6), 1)
    np.testing.assert_allclose(hann(6, 8), window, atol=1e-7)
    padded = np.concatenate([x[4:0:-1], x, x[-2:-6:-1]])
    waves = np.exp(-2j * np.pi * np.outer(np.arange(5), np.arange(8)) / 8)
    frames = [waves @ (padded[start : start + 8] * window) for start in range(0, len(x) + 1, 3)]
    np.testing.assert_allclose(stft(X[0], resolution), np.stack(frames), atol=1e-4)


def _bank(rate, fft, mels, low, high, scale, area):
    """Triangles in a loop, with the mel scales written once more."""
    if scale == "htk":
        mel, hz = lambda f: 2595 * np.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1)
    else:
        per = 200 / 3
        mel = lambda f: f / per if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)
        hz = lambda m: m * per if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)
    corners = [hz(m) for m in np.linspace(mel(low), mel(high), mels + 2)]
    bank = np.zeros((fft // 2 + 1, mels))
    for k in range(fft // 2 + 1):
        f = k * rate / fft
        for m in range(mels):
            a, b, c = corners[m : m + 3]
            if a <= f <= c:
                bank[k, m] = (f - a) / (b - a) if f <= b else (c - f) / (c - b)
                bank[k, m] *= 2 / (c - a) if area else 1
    return bank


@pytest.mark.parametrize("scale, area", [("htk", False), ("slaney", True)])
def test_mel_filters(scale, area):
    bank = mel_filterbank(16000, 256, 12, 50.0, 7000.0, scale, area)
    np.testing.assert_allclose(bank, _bank(16000, 256, 12, 50.0, 7000.0, scale, area), atol=1e-6)
    hz = np.asarray([0.0, 440.0, 999.0, 1000.0, 4000.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz, atol=1e-6)


@pytest.fixture(scope="module")
def found():
    """Losses and gradients, compiled together."""

    @jax.jit
    def compute(x, other):
        losses = {
            "stft": lambda y: multi_resolution_stft_loss(y, x, SMALL),
            "mel": lambda y: multi_scale_mel_loss(y, x, 16000, SMALL, magnitude_weight=0.5),
        }
        value = {name: jax.value_and_grad(loss) for name, loss in losses.items()}
        out = {name: (f(other), f(x), f(jnp.zeros_like(x))) for name, f in value.items()}
        parts = [
            [mel_spectrogram(y, 16000, one) for y in (x, other)]
            + [magnitude(stft(y, one)) for y in (x, other)]
            for one in SMALL
        ]
        return out, parts

    return jax.device_get(compute(X, OTHER))


def test_losses_are_zero_for_equals_and_have_gradients_in_silence(found):
    for (value, gradient), (zero, _), (silent, slope) in found[0].values():
        assert value > 0 and silent > 0 and zero < 1e-7
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0 and np.isfinite(slope).all()


def test_losses_as_written_out(found):
    losses, parts = found
    mel = stft_loss = 0.0
    for m, m_hat, s, s_hat in parts:
        mel += np.abs(np.log10(np.maximum(m, 1e-5)) - np.log10(np.maximum(m_hat, 1e-5))).mean()
        mel += 0.5 * np.abs(m - m_hat).mean()
        stft_loss += np.linalg.norm(s - s_hat) / np.linalg.norm(s) + np.abs(np.log(s / s_hat)).mean()
    np.testing.assert_allclose(losses["mel"][0][0], mel, rtol=1e-4)
    np.testing.assert_allclose(losses["stft"][0][0], stft_loss / len(SMALL), rtol=1e-4)


def test_published_resolutions():
    assert [(one.fft, one.step, one.mels) for one in DAC_MELS][::6] == [(32, 8, 5), (2048, 512, 320)]
    assert [one.window for one in WAVEGAN] == [600, 1200, 240]


def test_what_cannot_be():
    with pytest.raises(ValueError, match="a waveform of 200 samples is too short for fft=512"):
        stft(X, Resolution(512))
    with pytest.raises(ValueError, match="window=40 must be at most fft=32"):
        Resolution(32, window=40)
    with pytest.raises(ValueError, match=r"4 mels between 0.0 and 9000.0 Hz with scale='htk'"):
        mel_filterbank(16000, 64, 4, high=9000.0, scale="htk")
    for loss in (multi_resolution_stft_loss, lambda a, b: multi_scale_mel_loss(a, b, 16000)):
        with pytest.raises(ValueError, match=r"shapes \(2, 200\) and \(2, 100\) are compared"):
            loss(X, X[:, :100])
