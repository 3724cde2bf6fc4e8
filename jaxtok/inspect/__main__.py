"""The report of a run from the command line: `python -m jaxtok.inspect REPORT.html --workdir runs/x`."""

import argparse
import sys
from collections.abc import Sequence

from jaxtok.inspect.report import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report and says where; what a user can mend is said in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxtok.inspect",
        description="One self-contained HTML page about a run, finished or going.",
    )
    parser.add_argument("report", metavar="REPORT", help="the HTML file to write")
    parser.add_argument("--workdir", required=True, help="the run: what `train --workdir` was given")
    options = parser.parse_args(argv)
    try:
        path = write_report(options.report, options.workdir)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
