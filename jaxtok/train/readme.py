"""Tables of the README from measured files: `python -m jaxtok.train.readme README.md`.

`experiments/<group>/<name>.claims.json` is what the verb `verify` writes with `--out`, and
`experiments/<group>/<name>.results.json` is the `results.json` of a run. Both are committed; the README only
repeats them, between the comments `<!-- claims:begin -->` and `<!-- claims:end -->` and the same for
`results`. A test compares.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtok.evaluate.headlines import basis, is_headline
from jaxtok.evaluate.protocol import Result, read_results
from jaxtok.json_files import check_object, read_object

SECTIONS = ("claims", "results")


def rewrite(text: str, root: Path) -> str:
    """A README whose tables say what the committed files say.

    Args:
      text: of the README.
      root: the checkout, with its folder `experiments`; without measured files the tables say so.

    Raises:
      ValueError: no pair of comments for a section, or a file of another format.
    """
    for section, table in zip(SECTIONS, (claims_section(root), results_section(root))):
        begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
        before, found_begin, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found_begin or not found_end:
            raise ValueError(
                f"the README needs {begin!r} and, below it, {end!r}; the {section} go in between"
            )
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def claims_section(root: Path) -> str:
    """Markdown of all `*.claims.json` below `experiments`."""
    parts = [_claims(path, _read_claims(path), root) for path in _measured(root, "claims")]
    return "\n\n".join(parts) or "No claims have been measured yet."


def results_section(root: Path) -> str:
    """Markdown of all `*.results.json` below `experiments`."""
    parts = [_results(path, read_results(path), root) for path in _measured(root, "results")]
    return "\n\n".join(parts) or "No results have been recorded yet."


def _measured(root: Path, kind: str) -> list[Path]:
    return sorted((root / "experiments").rglob(f"*.{kind}.json"))


# -- claims --


def _read_claims(path: Path) -> Mapping[str, Any]:
    remedy = "Write it again with the verb `verify` and --out."
    about = {"experiment": str, "preset": str, "date": str, "seeds": list, "claims": list}
    outcome = read_object(path, about, remedy)
    for claim in outcome["claims"]:
        scored = {"name": str, "holds": bool, "arms": list, "margin": (int, float, type(None))}
        check_object(claim, scored, f"a claim in {path}", remedy)
        if claim["margin"] is not None:
            reached = {"margin_reached": bool, "smallest_mean_difference": (int, float)}
            check_object(claim, reached, f"a claim in {path}", remedy)
        for arm in claim["arms"]:
            check_object(arm, {"label": str, "values": list}, f"an arm in {path}", remedy)
            if not all(type(value) in (int, float) for value in arm["values"]) or not arm["values"]:
                raise ValueError(f"an arm in {path} needs a list of numbers as 'values'. {remedy}")
    return outcome


def _claims(path: Path, outcome: Mapping[str, Any], root: Path) -> str:
    claims, seeds = outcome["claims"], outcome["seeds"]
    hold = sum(claim["holds"] for claim in claims)
    where = path.relative_to(root).as_posix()
    words = [
        f"`{outcome['experiment']}`, preset `{outcome['preset']}`: {hold} of {len(claims)} claims hold",
        f"in every seed ({', '.join(map(str, seeds))}). Measured {outcome['date']}",
        *([f"at commit {outcome['commit']}"] if outcome.get("commit") else []),
        f"by the verb `verify`; every value is in [`{path.name}`]({where}).",
    ]
    if outcome.get("steps"):
        words.append(
            f"**A trial with {outcome['steps']} steps per stage, which shows nothing but that it runs.**"
        )
    rows = [
        (
            claim["name"],
            ", ".join(f"{arm['label']}: {_number(_mean(arm['values']))}" for arm in claim["arms"]),
            "yes" if claim["holds"] else "**NO**",
            _margin(claim),
        )
        for claim in claims
    ]
    header = (
        "claim",
        f"mean over {len(seeds)} seed{'s' * (len(seeds) != 1)}",
        "holds in every seed",
        "margin",
    )
    return " ".join(words) + "\n\n" + markdown_table(header, rows)


def _margin(claim: Mapping[str, Any]) -> str:
    if claim["margin"] is None:
        return ""
    verdict = "reached" if claim["margin_reached"] else "NOT reached"
    return f"{claim['margin']:g} {verdict} ({_number(claim['smallest_mean_difference'])})"


# -- results --


def _results(path: Path, results: Sequence[Result], root: Path) -> str:
    name = path.name.removesuffix(".results.json")
    where = path.relative_to(root).as_posix()
    rows, last = [], ""
    for result in results:
        stage, _, metric = result.name.rpartition("/")
        if not is_headline(metric):
            continue
        rows.append((stage if stage != last else "", f"`{metric}`", _value(result, results), basis(result)))
        last = stage
    if not rows:
        raise ValueError(
            f"{path} has none of the metrics that the README shows; see jaxtok.evaluate.headlines"
        )
    line = f"`{name}`, one run; every metric with its whole protocol is in [`{path.name}`]({where})."
    return line + "\n\n" + markdown_table(("stage", "metric", "value", "measured on"), rows)


def _value(result: Result, results: Iterable[Result]) -> str:
    """The number; a speed on a CPU only as a ratio to the slowest of its run, because CPUs are shared."""
    metric = result.name.rpartition("/")[2]
    if not metric.startswith("samples_per_second") or result.protocol.get("device") != "cpu":
        return _number(result.value)
    slowest = min(
        other.value for other in results if other.name.rpartition("/")[2].startswith("samples_per_second")
    )
    return f"{_number(result.value / slowest, 2)} x the slowest"


# -- Markdown --


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in which a vertical bar inside a cell stays a character."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _number(value: int | float, digits: int = 4) -> str:
    return f"{value:.{digits}g}"


def _mean(values: Sequence[int | float]) -> float:
    return sum(values) / len(values)


def main(arguments: Sequence[str]) -> None:
    """Rewrites the README that is named."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m jaxtok.train.readme README.md")
    path = Path(arguments[0])
    path.write_text(rewrite(path.read_text(encoding="utf-8"), path.resolve().parent), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
