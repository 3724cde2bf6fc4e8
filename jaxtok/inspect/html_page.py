"""The frame of HTML pages, which are self-contained: a content security policy forbids to load anything."""

import base64
import html
from pathlib import Path

from jaxtok.inspect.report_style import STYLE
from jaxtok.inspect.report_words import text


def html_page(title: str, body: str) -> str:
    """A page of this title around a body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def write_page(path: Path, page: str) -> None:
    """Writes a page, replacing an older one at once; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def picture(png: bytes, label: str, wide: bool = False) -> str:
    """A PNG as data, with what it shows below; a wide one scrolls on a phone."""
    data, kind = base64.b64encode(png).decode("ascii"), ' class="wide"' if wide else ""
    return figure(f'<img{kind} alt="{html.escape(label)}" src="data:image/png;base64,{data}">', label)


def figure(content: str, label: str) -> str:
    """HTML in a frame, with what it shows below."""
    caption = f"<figcaption>{text(label)}</figcaption>"
    return f'<figure><div class="frame">{content}</div>{caption}</figure>'
