"""Words, numbers and tables of the HTML report."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtok.inspect.run_folder import StageFiles


def leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted path, value) of everything in a tree of mappings."""
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        rows += leaves(value, f"{path}.") if isinstance(value, Mapping) and value else [(path, value)]
    return rows


def table(rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns: name and value."""
    cells = "".join(
        f'<tr><td class="key">{text(name)}</td><td><code>{text(plain(value))}</code></td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>" if cells else missing("Nothing is recorded.")


def plain(value: Any) -> str:
    """A value of the configuration for a reader."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def progress(stage: StageFiles) -> str:
    """Steps taken, and of how many if that is known."""
    return f"{stage.step:,}" + (f" of {stage.total:,}" if stage.total is not None else "")


def number(value: Any) -> str:
    """Four digits, whole numbers up to a million in full."""
    value = float(value)
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def duration(seconds: int | float) -> str:
    """In seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly chosen."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def missing(words: str) -> str:
    """A remark that something is not there."""
    return f'<p class="absent">{text(words)}</p>'


def text(value: Any) -> str:
    """Escaped, and free to break behind underscores."""
    return html.escape(str(value)).replace("_", "_<wbr>")
