"""Tables of claims and results, from the files that are committed beside the experiments.

`experiments/<group>/<name>.claims.json` is what the verb `verify` writes with `--out`, and
`experiments/<group>/<name>.results.json` is the `results.json` of a run.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.tables.markdown import link, markdown_table
from jaxtok.evaluate.headlines import basis, is_headline
from jaxtok.evaluate.protocol import Result, read_results
from jaxtok.json_files import check_object, read_object


def claims(root: Path, folder: Path) -> str:
    """Markdown of all `*.claims.json` below `experiments`."""
    parts = [claims_table(path, read_claims(path), folder) for path in _measured(root, "claims")]
    return "\n\n".join(parts) or "No claims have been measured yet."


def results(root: Path, folder: Path) -> str:
    """Markdown of all `*.results.json` below `experiments`."""
    parts = [_results(path, read_results(path), folder) for path in _measured(root, "results")]
    return "\n\n".join(parts) or "No results have been recorded yet."


def _measured(root: Path, kind: str) -> list[Path]:
    return sorted((root / "experiments").rglob(f"*.{kind}.json"))


# -- claims --


def read_claims(path: Path) -> Mapping[str, Any]:
    """What the verb `verify` wrote.

    Raises:
      ValueError: a file of another format.
    """
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


def claims_table(path: Path, outcome: Mapping[str, Any], folder: Path) -> str:
    """Markdown of one file of claims, for a page in `folder`."""
    scored, seeds = outcome["claims"], outcome["seeds"]
    hold = sum(claim["holds"] for claim in scored)
    words = [
        f"`{outcome['experiment']}`, preset `{outcome['preset']}`: {hold} of {len(scored)} claims hold",
        f"in every seed ({', '.join(map(str, seeds))}). Measured {outcome['date']}",
        *([f"at commit {outcome['commit']}"] if outcome.get("commit") else []),
        f"by the verb `verify`; every value is in {link(path, folder)}.",
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
        for claim in scored
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


def _results(path: Path, found: Sequence[Result], folder: Path) -> str:
    name = path.name.removesuffix(".results.json")
    rows, last = [], ""
    for result in found:
        stage, _, metric = result.name.rpartition("/")
        if not is_headline(metric):
            continue
        rows.append((stage if stage != last else "", f"`{metric}`", _value(result, found), basis(result)))
        last = stage
    if not rows:
        raise ValueError(f"{path} has none of the metrics that the page shows; see jaxtok.evaluate.headlines")
    line = f"`{name}`, one run; every metric with its whole protocol is in {link(path, folder)}."
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


def _number(value: int | float, digits: int = 4) -> str:
    return f"{value:.{digits}g}"


def _mean(values: Sequence[int | float]) -> float:
    return sum(values) / len(values)
