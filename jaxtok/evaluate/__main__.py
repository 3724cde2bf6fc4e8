"""`python -m jaxtok.evaluate compare a.json b.json`: two runs side by side, if they were measured alike."""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxtok.evaluate.comparison import compare, comparison_table
from jaxtok.evaluate.protocol import Result, read_results


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; what the user can mend is said in a few lines, with exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m jaxtok.evaluate", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("compare", help="a table of the metrics that two files share")
    verb.add_argument("a", help="results.json of a run, or its folder")
    verb.add_argument("b", help="that of another one")
    verb.add_argument(
        "--varying", nargs="+", default=[], metavar="KEY", help="protocol keys that are meant to differ"
    )
    verb.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="metrics, such as '*fd_*'")
    verb.add_argument("--alike-only", action="store_true", help="leave out what was measured unlike")
    options = parser.parse_args(arguments)
    try:
        sides = [_read(path, options.only) for path in (options.a, options.b)]
        found = compare(*sides, varying=options.varying, alike_only=options.alike_only)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(comparison_table(found, *_labels(options.a, options.b)))


def _read(path: str, patterns: Sequence[str]) -> list[Result]:
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    return [
        result
        for result in read_results(file)
        if any(fnmatch.fnmatchcase(result.name, pattern) for pattern in patterns)
    ]


def _labels(a: str, b: str) -> tuple[str, str]:
    """The last parts of the paths, as many as tell them apart."""
    first, second = (
        [part for part in Path(path).parts if part != "results.json"] or [path] for path in (a, b)
    )
    for length in range(1, max(len(first), len(second)) + 1):
        names = "/".join(first[-length:]), "/".join(second[-length:])
        if names[0] != names[1]:
            return names
    return "a", "b"


if __name__ == "__main__":
    main()
