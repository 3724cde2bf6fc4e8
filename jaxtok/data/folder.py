"""A folder of image files."""

import os
from pathlib import Path
from typing import Any

from jaxtok.data.errors import BadRecord
from jaxtok.data.files import find_files
from jaxtok.data.images import IMAGE_SUFFIXES
from jaxtok.data.records import Source


class Folder(Source):
    """Every image below a folder; sub-folders are classes, and a .txt beside an image is its caption.

    The label is the rank of the first folder on the way to the image, in lexicographic order of names;
    images that lie directly in the folder have label -1.
    """

    def __init__(self, path: str, channels: int, classes: tuple[str, ...]):
        """Lists the folder.

        Args:
          path: The folder.
          channels: 1 or 3.
          classes: Class names by label, from `class_folders` of the training folder also for an evaluation
            folder: a class without evaluation images must not shift the labels.

        Raises:
          ValueError: No folder, no image, or a sub-folder that is none of the classes.
        """
        self.root = _folder(path)
        self.channels, self.classes = channels, classes
        prefix = os.path.join(self.root, "")
        self.files = [file.removeprefix(prefix) for file in find_files(str(self.root), IMAGE_SUFFIXES)]
        present = {file.split(os.sep)[0] for file in self.files if os.sep in file}
        if unknown := present - set(classes):
            raise ValueError(
                f"{path} has class folders {sorted(unknown)} that the training folder does not have "
                f"({', '.join(classes) or 'none'}). Rename or remove them."
            )
        self._labels = {name: label for label, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.files)

    def raw(self, index: int) -> dict[str, Any]:
        name = self.files[index]
        file = self.root / name
        try:
            image = file.read_bytes()
        except OSError as error:
            raise BadRecord(name, str(error)) from error
        text = file.with_suffix(".txt")
        caption = text.read_text("utf-8", errors="replace").strip() if text.exists() else ""
        label = self._labels[name.split(os.sep)[0]] if os.sep in name else -1
        return {"image": image, "label": label, "caption": caption, "key": name}

    def identity(self) -> Any:
        # Sizes and not hashes: reading a million files to name a data set would take too long.
        return [[(name, os.path.getsize(self.root / name)) for name in self.files], self.classes]


def class_folders(path: str) -> tuple[str, ...]:
    """Names of the visible sub-folders of a folder in lexicographic order."""
    entries = os.scandir(_folder(path))
    return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{path} is not a folder. Set data.path to a folder of images.")
    return folder
