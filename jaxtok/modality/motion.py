"""Motion: float32 [T, D] per frame, such as the coordinates of joints."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.evaluate.signals import SignalMeter
from jaxtok.inspect.signals import plot_signals
from jaxtok.inspect.skeletons import write_skeleton_gif
from jaxtok.modality.contract import Meter


@dataclasses.dataclass(frozen=True)
class MotionModality:
    """See `jaxtok.modality.contract.Modality`.

    Attributes:
      frame_rate: frames per second.
      bones: pairs of joints that are drawn as lines, where the features are joints in the plane [T, 2 J];
        none for features that are not drawn.
    """

    frame_rate: float = 20.0
    bones: tuple[tuple[int, int], ...] = ()

    @property
    def key(self) -> str:
        """Name in batches."""
        return "motion"

    @property
    def noun(self) -> str:
        """What messages call several."""
        return "motions"

    def from_user(self, values: Any, **options: Any) -> np.ndarray:
        """Floats [B, T, D] -> float32.

        Raises:
          ValueError: another shape, or values that are not finite.
        """
        if options:
            raise ValueError(f"motion takes no {', '.join(options)}; leave it out")
        values = np.asarray(values, np.float32)
        if values.ndim != 3 or not np.isfinite(values).all():
            raise ValueError(f"motion of shape {values.shape}; expected finite values [B, T, D]")
        return values

    def to_user(self, values: Any) -> Any:
        """As it is."""
        return values

    def units(self, shape: Sequence[int]) -> Mapping[str, float]:
        """Frames and seconds of a motion [T, D]."""
        return {"frames": float(shape[0]), "seconds": shape[0] / self.frame_rate}

    def write(
        self, folder: Path, values: np.ndarray, names: Sequence[str], lengths: Sequence[int] | None = None
    ) -> list[Path]:
        """NPY files float32 [T, D] of the real frames, and with bones a moving GIF beside each."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.npy" for name in names]
        for number, (file, value) in enumerate(zip(files, values, strict=True)):
            frames = value if lengths is None else value[: lengths[number]]
            np.save(file, np.asarray(frames, np.float32))
            if self.bones:
                write_skeleton_gif(file.with_suffix(".gif"), frames, self.bones, self.frame_rate)
        return files

    def reconstructions(self, original: np.ndarray, restored: np.ndarray, title: str) -> Any:
        """The feature that moves most, over time."""
        most = [int(np.argmax(np.std(original, axis=(0, 1))))]
        rows = {"original": original[:4, :, most], "reconstruction": restored[:4, :, most]}
        return plot_signals(rows, 1 / self.frame_rate, "seconds", title)

    def samples(self, values: np.ndarray, captions: Sequence[str], columns: int, title: str = "") -> Any:
        """The feature that moves most, over time, of the first sample of each caption."""
        most = [int(np.argmax(np.std(values, axis=(0, 1))))]
        rows = {caption: values[number * columns][None, :, most] for number, caption in enumerate(captions)}
        return plot_signals(rows, 1 / self.frame_rate, "seconds", title)

    def meter(self) -> Meter:
        """Signal-to-noise ratio of the features."""
        return SignalMeter("motion")
