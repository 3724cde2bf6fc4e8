"""How near reconstructed signals of any number of axes are to the originals."""

from typing import Any

import numpy as np

from jaxtok.evaluate.protocol import Result


class SignalMeter:
    """Signal-to-noise ratio 10 log10(sum x^2 / sum (x - y)^2) in dB, of every example by itself and averaged,
    and the mean absolute error; float64.

    Args:
      what: the signal, part of the results' names, such as "waveform".
    """

    def __init__(self, what: str):
        self.what = what
        self._ratios: list[float] = []
        self._error = self._values = 0.0

    def update(self, original: Any, restored: Any, valid: Any = None, mask: Any = None, /) -> None:
        """Adds a batch.

        Args:
          original, restored: [B, T, ...].
          valid: bool [B], rows that count; None for all.
          mask: bool [B, T], what of each row is real; None for all.

        Raises:
          ValueError: different shapes.
        """
        x, y = np.asarray(original, np.float64), np.asarray(restored, np.float64)
        if x.shape != y.shape:
            raise ValueError(f"originals of shape {x.shape} and reconstructions of {y.shape}; decode as long")
        kept = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask)
        kept = kept.reshape(*kept.shape, *[1] * (x.ndim - 2))
        for row in range(len(x)):
            if valid is not None and not valid[row]:
                continue
            real = np.broadcast_to(kept[row], x[row].shape)
            a, b = x[row][real], y[row][real]
            noise, power = np.sum(np.square(a - b)), np.sum(np.square(a))
            self._ratios.append(10 * np.log10(max(power, 1e-12) / max(noise, 1e-12)))
            self._error, self._values = self._error + float(np.sum(np.abs(a - b))), self._values + a.size

    def results(self, **protocol: Any) -> list[Result]:
        """`<what>_snr_db` and `<what>_l1`; none of an empty split."""
        if not self._ratios:
            return []
        stated = {**protocol, "examples": len(self._ratios)}
        return [
            Result(f"{self.what}_snr_db", float(np.mean(self._ratios)), stated),
            Result(f"{self.what}_l1", self._error / max(self._values, 1), stated),
        ]
