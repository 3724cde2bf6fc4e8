"""Generated parts of the pages: `python -m experiments.pages` writes them anew.

A page is a Markdown file of the repository. Between the lines `<!-- name:begin -->` and
`<!-- name:end -->` it repeats what committed files say; `SECTIONS` has the names. Everything else of a page
is written by hand. A test compares the committed pages with what this module generates.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.tables import benchmarks, claims, sources

ROOT = Path(__file__).parents[1]
FOLDERS = ("experiments", "jaxtok", "notebooks")

# Name -> (the checkout, the folder of the page) -> Markdown.
SECTIONS: Mapping[str, Callable[[Path, Path], str]] = {
    "systems": sources.systems,
    "presets": sources.presets,
    "flags": sources.flags,
    "kernels": sources.kernels,
    "claims": claims.claims,
    "results": claims.results,
    "plans": benchmarks.plans,
    "quantizers": benchmarks.quantizers,
    "quantizers_keep_memory": benchmarks.quantizers_keep_memory,
    "sampling": benchmarks.sampling,
    "pretokenised": benchmarks.pretokenised,
    "data_loop": benchmarks.data_loop,
    "soak": benchmarks.soak,
}
_COMMENT = re.compile(r"^<!-- (\w+):(begin|end) -->$", re.MULTILINE)
_PART = re.compile(r"^<!-- (\w+):begin -->$.*?^<!-- \1:end -->$", re.MULTILINE | re.DOTALL)


def pages(root: Path) -> list[Path]:
    """All pages of a checkout: those at its top, and those beside what they describe."""
    below = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.md"))]
    return [*(path for path in (root / "README.md", root / "CONTRIBUTING.md") if path.exists()), *below]


def sections_of(text: str) -> list[str]:
    """The names of the generated parts of a page, in their order.

    Raises:
      ValueError: an unknown name, or a comment without the other one.
    """
    found = _COMMENT.findall(text)
    for (name, kind), (other, last) in zip(found[::2], [*found[1::2], ("", "")]):
        if name not in SECTIONS:
            raise ValueError(f"no generated part {name!r}; there are {', '.join(SECTIONS)}")
        if (kind, other, last) != ("begin", name, "end"):
            raise ValueError(
                f"a page needs the line '<!-- {name}:begin -->' and, below it, '<!-- {name}:end -->'; "
                "what is generated goes in between"
            )
    return [name for name, kind in found if kind == "begin"]


def rewrite(text: str, folder: Path, root: Path) -> str:
    """A page whose generated parts say what the committed files say.

    Args:
      text: of the page.
      folder: where the page stands, for its links.
      root: the checkout; without measured files the tables of claims and results say so.

    Raises:
      ValueError: as `sections_of`, or a file of another format.
    """
    sections_of(text)

    def part(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name}:begin -->\n{SECTIONS[name](root, folder)}\n<!-- {name}:end -->"

    return _PART.sub(part, text)


def main(arguments: Sequence[str] = (), root: Path = ROOT) -> None:
    """Rewrites the generated parts of all pages and names the pages that changed."""
    if arguments:
        raise SystemExit("usage: python -m experiments.pages")
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        new = rewrite(text, page.parent, root)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(root).as_posix())


if __name__ == "__main__":
    main(sys.argv[1:])
