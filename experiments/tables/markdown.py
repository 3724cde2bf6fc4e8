"""Tables and links in Markdown."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in which a vertical bar inside a cell stays a character."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def link(path: Path, folder: Path, name: str = "") -> str:
    """A link to a file from a page in `folder`; its name is that of the file unless another is given."""
    target = Path(os.path.relpath(path, folder)).as_posix()
    return f"[{name or f'`{path.name}`'}]({target})"
