"""NumPy files with decoded images."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.captions import decode_caption
from jaxtok.data.dataset import Split
from jaxtok.data.files import digests
from jaxtok.data.image_data import ImageFiles
from jaxtok.data.image_sources import ImageSource


class NumpyFile(ImageSource):
    """Images uint8 [N, H, W, C] (or [N, H, W]) of a .npy or .npz file.

    A .npy file is mapped into memory, not read; a `labels.npy` beside it holds its labels. A .npz file is
    read at once; it has "images", and optionally "labels" and "captions". Labels are integers [N] or [N, 1],
    or one-hot [N, K]; captions are strings [N].
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
        if "labels" in arrays:
            _integers(arrays["labels"], path)
        if "captions" in arrays and (
            arrays["captions"].ndim != 1 or arrays["captions"].dtype.kind not in "US"
        ):
            captions = arrays["captions"]
            raise ValueError(
                f"the captions in {path} are {captions.dtype} of shape {captions.shape}, but must be "
                "strings [N]. Save them with numpy.array(list_of_strings)."
            )
        self._count = len(images)

    def __len__(self) -> int:
        return self._count

    def labels(self) -> np.ndarray:
        arrays = _load(self.file)
        return _integers(arrays["labels"], str(self.file)) if "labels" in arrays else np.full(self._count, -1)

    def raw(self, index: int) -> dict[str, Any]:
        arrays, key = _load(self.file), f"{self.file.name}[{index}]"
        caption = arrays["captions"][index] if "captions" in arrays else ""
        return {
            "image": np.asarray(arrays["images"][index]),
            "label": int(_integers(arrays["labels"][index : index + 1], key)[0])
            if "labels" in arrays
            else -1,
            "caption": decode_caption(caption, key) if isinstance(caption, bytes) else str(caption),
            "key": key,
        }

    def identity(self) -> Any:
        return digests([str(self.file)])


def _integers(labels: np.ndarray, path: str) -> np.ndarray:
    """int64 [N] of integers [N] or [N, 1], floats that are whole, or one-hot rows [N, K].

    Raises:
      ValueError: They are something else.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
        labels = labels.argmax(axis=1) if one_hot else labels
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and (labels == np.floor(labels)).all())
    if labels.ndim != 1 or not whole:
        raise ValueError(
            f"the labels in {path} are {labels.dtype} of shape {labels.shape}, but must be integers [N] "
            "or [N, 1], or one-hot [N, K]. Convert them and save them again."
        )
    return np.minimum(labels, np.iinfo(np.int64).max).astype(np.int64)  # uint64 would wrap around


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


@dataclass(frozen=True, kw_only=True)
class NumpyImages(ImageFiles):
    """Images in a NumPy file; see `NumpyFile`."""

    kind = "numpy"

    def files(self, path: str, split: Split) -> ImageSource:
        """See `ImageFiles.files`."""
        self.refuse_shared_files()
        return NumpyFile(path, self.channels)
