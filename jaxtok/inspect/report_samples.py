"""Samples in the report: pictures are shown, sound can be listened to, motion moves, text reads as text."""

import base64
import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxtok.inspect.html_page import figure
from jaxtok.inspect.report_words import text

_MOST, _LARGEST = 12, 2**21  # files, and bytes of one that is put into the page
_SHOWN = 2000  # characters of a text


def samples_section(folder: Path) -> str:
    """HTML of the first samples that the verb `sample` wrote into a folder; "" where there are none.

    Of a file that is there in two forms (an array and how it moves) the one that can be shown is.
    """
    if not folder.is_dir():
        return ""
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in _SHOW and file.name != "grid.png" and file.stat().st_size <= _LARGEST
    ]
    labels = _labels(folder / "requests.jsonl")
    return "".join(_SHOW[file.suffix](file, labels.get(file.stem, file.stem)) for file in files[:_MOST])


def _labels(path: Path) -> Mapping[str, str]:
    """Name of a file without ending -> what was asked for."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            asked = ", ".join(str(value) for name, value in row.items() if name != "file")
            found[Path(row["file"]).stem] = asked or Path(row["file"]).stem
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line that was damaged has no label
    return found


def _data(file: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _image(kind: str) -> Callable[[Path, str], str]:
    return lambda file, label: figure(f'<img alt="{html.escape(label)}" src="{_data(file, kind)}">', label)


def _sound(file: Path, label: str) -> str:
    return figure(f'<audio controls preload="none" src="{_data(file, "audio/wav")}"></audio>', label)


def _text(file: Path, label: str) -> str:
    words = file.read_text(encoding="utf-8", errors="replace")[:_SHOWN]
    return figure(f"<pre>{text(words)}</pre>", label)


_SHOW: Mapping[str, Callable[[Path, str], str]] = {
    ".png": _image("image/png"),
    ".gif": _image("image/gif"),
    ".wav": _sound,
    ".txt": _text,
}
