"""One self-contained HTML page about a sweep: its pictures, and a row for every trial."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtok.inspect.html_page import html_page, picture, write_page
from jaxtok.inspect.report_words import missing, plain, text


def write_sweep_page(
    path: str | os.PathLike,
    title: str,
    trials: Sequence[Mapping[str, Any]],
    figures: Mapping[str, bytes],
) -> None:
    """Writes the page, replacing an older one.

    Args:
      path: the file.
      title: what was searched.
      trials: a row each, the best first; all have the same columns.
      figures: what a picture shows -> the PNG.
    """
    pictures = "".join(picture(png, label, wide=True) for label, png in figures.items())
    body = [
        f"<h1>{text(title)}</h1>",
        f'<p class="lead">{len(trials)} trial{"s" * (len(trials) != 1)}, the best first.</p>',
        f'<div class="pictures">{pictures}</div>' if pictures else missing("No pictures yet."),
        "<h2>Trials</h2>",
        _rows(trials) if trials else missing("No trial yet."),
    ]
    write_page(Path(path), html_page(title, "\n".join(body)))


def _rows(trials: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{text(name)}</th>" for name in trials[0])
    rows = "".join(
        "<tr>" + "".join(f"<td>{text(plain(value))}</td>" for value in trial.values()) + "</tr>"
        for trial in trials
    )
    return f'<div class="frame"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
