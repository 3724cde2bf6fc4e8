"""Sound: float32 [T, C] in [-1, 1], outside and inside."""

import dataclasses
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtok.evaluate.signals import SignalMeter
from jaxtok.inspect.signals import plot_signals
from jaxtok.modality.contract import Meter


@dataclasses.dataclass(frozen=True)
class AudioModality:
    """See `jaxtok.modality.contract.Modality`.

    Attributes:
      sample_rate: samples per second.
    """

    sample_rate: int = 16_000

    @property
    def key(self) -> str:
        """Name in batches."""
        return "audio"

    @property
    def noun(self) -> str:
        """What messages call several."""
        return "recordings"

    def from_user(self, values: Any, **options: Any) -> np.ndarray:
        """int16, or floats in [-1, 1], [B, T] or [B, T, C] -> float32 [B, T, C].

        Raises:
          ValueError: another shape, dtype or range.
        """
        if options:
            raise ValueError(f"sound takes no {', '.join(options)}; leave it out")
        values = np.asarray(values)
        if values.ndim == 2:
            values = values[..., None]
        if values.ndim != 3:
            raise ValueError(f"sound of shape {values.shape}; expected [B, T] or [B, T, C]")
        if values.dtype == np.int16:
            return values.astype(np.float32) / 32768
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"sound is {values.dtype}; expected int16, or floats in [-1, 1]")
        if not np.isfinite(values).all() or (values.size and np.abs(values).max() > 1.001):
            raise ValueError("sound is not finite or leaves [-1, 1]; divide it by its largest amplitude")
        return values.astype(np.float32)

    def to_user(self, values: Any) -> Any:
        """Clipped to [-1, 1]."""
        return jnp.clip(values, -1.0, 1.0)

    def units(self, shape: Sequence[int]) -> Mapping[str, float]:
        """Seconds of a recording [T, C]."""
        return {"seconds": shape[0] / self.sample_rate}

    def write(
        self, folder: Path, values: np.ndarray, names: Sequence[str], lengths: Sequence[int] | None = None
    ) -> list[Path]:
        """WAV files of 16 bits; lengths in samples."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.wav" for name in names]
        for number, (file, value) in enumerate(zip(files, values, strict=True)):
            samples = value if lengths is None else value[: lengths[number]]
            with wave.open(str(file), "wb") as opened:
                opened.setnchannels(samples.shape[-1])
                opened.setsampwidth(2)
                opened.setframerate(self.sample_rate)
                opened.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        return files

    def reconstructions(self, original: np.ndarray, restored: np.ndarray, title: str) -> Any:
        """Waveforms, one above the other."""
        rows = {"original": original[:4], "reconstruction": restored[:4]}
        return plot_signals(rows, 1 / self.sample_rate, "seconds", title)

    def samples(self, values: np.ndarray, captions: Sequence[str], columns: int, title: str = "") -> Any:
        """Waveforms of the first sample of each caption."""
        rows = {caption: values[number * columns][None] for number, caption in enumerate(captions)}
        return plot_signals(rows, 1 / self.sample_rate, "seconds", title)

    def meter(self) -> Meter:
        """Signal-to-noise ratio."""
        return SignalMeter("waveform")
