"""Images: uint8 [H, W, C] outside, float32 in [-1, 1] inside."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from jaxtok.evaluate.images import ReconstructionMeter
from jaxtok.inspect import reconstruction_grid, sample_grid
from jaxtok.modality.contract import Meter
from jaxtok.nn.images import model_images, to_uint8


@dataclasses.dataclass(frozen=True)
class ImageModality:
    """See `jaxtok.modality.contract.Modality`."""

    key: str = "image"
    noun: str = "images"

    def from_user(self, values: Any, **options: Any) -> np.ndarray:
        """`channels` of the model and `value_range` of floats: see `jaxtok.nn.images.model_images`."""
        return model_images(values, **options)

    def to_user(self, values: Any) -> Any:
        """uint8."""
        return to_uint8(values)

    def units(self, shape: Sequence[int]) -> Mapping[str, float]:
        """Pixels of an image [H, W, C]."""
        return {"pixels": float(shape[0] * shape[1])}

    def write(
        self, folder: Path, values: np.ndarray, names: Sequence[str], lengths: Sequence[int] | None = None
    ) -> list[Path]:
        """PNG files of uint8 images."""
        del lengths
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.png" for name in names]
        for file, image in zip(files, values, strict=True):
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)
        return files

    def reconstructions(self, original: np.ndarray, restored: np.ndarray, title: str) -> Any:
        """See `jaxtok.inspect.reconstruction_grid`."""
        return reconstruction_grid(original, restored, title=title)

    def samples(self, values: np.ndarray, captions: Sequence[str], columns: int, title: str = "") -> Any:
        """See `jaxtok.inspect.sample_grid`."""
        return sample_grid(values, captions, columns=columns, title=title)

    def meter(self) -> Meter:
        """PSNR and SSIM."""
        return cast(Meter, ReconstructionMeter())  # images have no lengths, so there is never a mask


IMAGE = ImageModality()
