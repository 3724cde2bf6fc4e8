"""NumPy files with decoded images."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.files import digests
from jaxtok.data.records import Source


class NumpyFile(Source):
    """Images uint8 [N, H, W, C] (or [N, H, W]) of a .npy or .npz file.

    A .npy file is mapped into memory, not read; a `labels.npy` beside it holds its labels. A .npz file is
    read at once; it has "images", and optionally "labels" and "captions".
    """

    def __init__(self, path: str, channels: int):
        """Opens the file.

        Args:
          path: A .npy or .npz file.
          channels: 1 or 3.

        Raises:
          ValueError: No such file, not a NumPy file, or arrays of the wrong type or shape.
        """
        self.channels = channels
        self.file = Path(path).expanduser()
        if not self.file.is_file() or self.file.suffix not in (".npy", ".npz"):
            raise ValueError(f"{path} is not a .npy or .npz file. Set data.path to one.")
        arrays = _load(self.file)
        images = arrays["images"]
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and images.shape[-1] not in (1, 3))
        ):
            raise ValueError(
                f"the images in {path} are {images.dtype} of shape {images.shape}, but must be uint8 "
                "[N, H, W, 1 or 3] or [N, H, W]. Convert them and save them again."
            )
        for name in ("labels", "captions"):
            if name in arrays and len(arrays[name]) != len(images):
                raise ValueError(
                    f"{path} has {len(images)} images but {len(arrays[name])} {name}. Save as many."
                )
        if not len(images):
            raise ValueError(f"{path} holds no images. Check data.path.")
        self._count = len(images)

    def __len__(self) -> int:
        return self._count

    def raw(self, index: int) -> dict[str, Any]:
        arrays = _load(self.file)
        return {
            "image": np.asarray(arrays["images"][index]),
            "label": int(arrays["labels"][index]) if "labels" in arrays else -1,
            "caption": str(arrays["captions"][index]) if "captions" in arrays else "",
            "key": f"{self.file.name}[{index}]",
        }

    def identity(self) -> Any:
        return digests([str(self.file)])


@functools.lru_cache(maxsize=4)  # by file and not in the source, so that a worker process opens its own
def _load(file: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(file, mmap_mode="r")  # never unpickles
        if isinstance(loaded, np.ndarray):
            labels = file.with_name("labels.npy")
            return {"images": loaded} | ({"labels": np.load(labels)} if labels.exists() else {})
        with loaded:
            arrays = {name: loaded[name] for name in ("images", "labels", "captions") if name in loaded}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{file} cannot be read: {error}. Save it again with numpy.save or numpy.savez."
        ) from error
    if "images" not in arrays:
        raise ValueError(
            f"{file} has no array named 'images'. Save it with numpy.savez(file, images=..., labels=...)."
        )
    return arrays
