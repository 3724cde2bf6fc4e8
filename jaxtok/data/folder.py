"""A folder of image files."""

import collections
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxtok.data.captions import CAPTION_SUFFIXES, decode_caption
from jaxtok.data.dataset import Split
from jaxtok.data.errors import BadRecord, notice
from jaxtok.data.files import FoundFile, check_readable, walk
from jaxtok.data.image_data import ImageFiles
from jaxtok.data.image_files import IMAGE_SUFFIXES
from jaxtok.data.image_sources import ImageSource

_NAMED = 3  # examples in a message


class Folder(ImageSource):
    """Every image below a folder; sub-folders are classes, and a text file beside an image is its caption.

    The label is the rank of the first folder on the way to the image, in lexicographic order of the names of
    those that hold images; images that lie directly in the folder have label -1. A caption is `dog.txt`,
    `dog.caption` or `dog.png.txt` beside `dog.png`. A file with several names (links) is one record.
    """

    def __init__(self, path: str, channels: int, training: str = "", without: str = ""):
        """Lists the folder.

        Args:
          path: The folder.
          channels: 1 or 3.
          training: The folder whose sub-folders are the classes, if it is another: a class without evaluation
            images must not shift the labels.
          without: A folder whose files are left out here: evaluation images that also lie in the training
            folder.

        Raises:
          ValueError: No folder, no image, an image with two captions, or a sub-folder that is none of the
            classes.
        """
        self.root, self.channels = _folder(path), channels
        files = walk(str(self.root))
        images, texts, others = _sorted_by_kind(self._names(files))
        if without:
            images = self._left(images, {file.identity for file in walk(str(_folder(without)))}, without)
        if not images:
            raise ValueError(f"{path} holds no {' or '.join(IMAGE_SUFFIXES)} file. Check data.path.")
        self.files, self._sizes = list(images), [file.size for file in images.values()]
        check_readable([file.path for file in images.values()])
        self._captions = _captions(path, self.files, texts)
        if others:
            kinds = collections.Counter(os.path.splitext(name)[1].lower() or "no ending" for name in others)
            listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
            notice(f"{len(others)} files in {path} are no images and are skipped: {listed}")
        present = _first_folders(self.files)
        if present and all(name.count(os.sep) > 1 for name in self.files):
            notice(
                f"{path}: its sub-folders ({', '.join(present[:8])}{', ...' * (len(present) > 8)}) are the "
                "classes, and all images lie in folders further down. If those are the classes, set "
                "data.path to the folder above them"
            )
        other = training and os.path.realpath(_folder(training)) != os.path.realpath(self.root)
        self.classes = class_folders(training) if other else present
        if unknown := set(present) - set(self.classes):
            raise ValueError(
                f"{path} has class folders {sorted(unknown)} that the training folder does not have "
                f"({', '.join(self.classes) or 'none'}). Rename or remove them."
            )
        ranks = {name: label for label, name in enumerate(self.classes)}
        self._labels = [ranks[name.split(os.sep)[0]] if os.sep in name else -1 for name in self.files]

    def _names(self, files: Iterable[FoundFile]) -> dict[str, FoundFile]:
        """The files by their names below the folder."""
        prefix = os.path.join(self.root, "")
        return {file.path.removeprefix(prefix): file for file in files}

    def _left(self, images: dict[str, FoundFile], taken: set[Any], without: str) -> dict[str, FoundFile]:
        left = {name: file for name, file in images.items() if file.identity not in taken}
        if count := len(images) - len(left):
            notice(f"{count} images in {self.root} are also in {without}: they are not trained on")
        return left

    def __len__(self) -> int:
        return len(self.files)

    def labels(self) -> np.ndarray:
        return np.array(self._labels, np.int64)

    def raw(self, index: int) -> dict[str, Any]:
        name = self.files[index]
        try:
            image = (self.root / name).read_bytes()
            text = self._captions.get(name)
            caption = decode_caption((self.root / text).read_bytes(), name) if text else ""
        except OSError as error:
            raise BadRecord(name, error.strerror or str(error)) from error
        return {"image": image, "label": self._labels[index], "caption": caption, "key": name}

    def identity(self) -> Any:
        # Sizes and not hashes: reading a million files to name a data set would take too long.
        return [list(zip(self.files, self._sizes)), self.classes]


def class_folders(path: str) -> tuple[str, ...]:
    """Names of the sub-folders of a folder that hold images, in lexicographic order."""
    root = _folder(path)
    prefix = os.path.join(root, "")
    names = [file.path.removeprefix(prefix) for file in walk(str(root))]
    return _first_folders(name for name in names if name.lower().endswith(IMAGE_SUFFIXES))


def _first_folders(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.split(os.sep)[0] for name in names if os.sep in name}))


def _sorted_by_kind(names: dict[str, FoundFile]) -> tuple[dict[str, FoundFile], list[str], list[str]]:
    """Images, possible captions and other files."""
    images = {name: file for name, file in names.items() if name.lower().endswith(IMAGE_SUFFIXES)}
    texts = [name for name in names if name.lower().endswith(CAPTION_SUFFIXES)]
    return images, texts, sorted(names.keys() - images.keys() - set(texts))


def _captions(path: str, images: Iterable[str], texts: Iterable[str]) -> dict[str, str]:
    """Image -> its caption file.

    Raises:
      ValueError: An image has two.
    """
    by_stem: dict[str, list[str]] = {}
    for name in images:
        for stem in (name, os.path.splitext(name)[0]):
            by_stem.setdefault(stem, []).append(name)
    found: dict[str, str] = {}
    alone = []
    for text in texts:
        for name in by_stem.get(os.path.splitext(text)[0], ()):
            if name in found:
                raise ValueError(f"{name} in {path} has two captions, {found[name]} and {text}. Keep one.")
            found[name] = text
        if os.path.splitext(text)[0] not in by_stem:
            alone.append(text)
    if alone:
        some = ", ".join(alone[:_NAMED]) + (", ..." if alone[_NAMED:] else "")
        notice(f"{len(alone)} text files in {path} belong to no image and are skipped: {some}")
    return found


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{path} is not a folder. Set data.path to a folder of images.")
    return folder


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageFiles):
    """A folder of image files; see `Folder`."""

    kind = "folder"

    def files(self, path: str, split: Split) -> ImageSource:
        """See `ImageFiles.files`."""
        without = self.eval_path if split == "train" else ""
        return Folder(path, self.channels, training=self.path, without=without)
