"""Two files of results side by side: what was measured alike, and how far apart the numbers are."""

import dataclasses
from collections.abc import Iterable, Sequence

from jaxtok.evaluate.protocol import Result, difference, protocol_conflicts


@dataclasses.dataclass(frozen=True)
class Compared:
    """One metric of two runs.

    Attributes:
      name: of the metric.
      a: its value in the first run.
      b: its value in the second.
    """

    name: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """`b - a`."""
        return self.b - self.a

    @property
    def percent(self) -> float:
        """The difference in percent of `|a|`; NaN where a is 0."""
        return 100 * self.difference / abs(self.a) if self.a else float("nan")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All metrics of two runs.

    Attributes:
      rows: those of both, in the first one's order.
      unlike: (metric, its differing protocol keys) that were left out, because they were measured unlike.
      only_a, only_b: metrics of one run alone.
    """

    rows: tuple[Compared, ...]
    unlike: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare(
    a: Iterable[Result], b: Iterable[Result], *, varying: Sequence[str] = (), alike_only: bool = False
) -> Comparison:
    """Compares the results of two runs by name.

    Args:
      a, b: results.
      varying: protocol keys that are meant to differ, because the comparison is about them.
      alike_only: leave metrics with unlike protocols out, and list them, in place of raising.

    Raises:
      ValueError: a metric was measured under unlike protocols; the message lists every differing key with its
        values and metrics. Or no metric is in both, or a name is twice in one.
    """
    first, second = _by_name(a), _by_name(b)
    rows, unlike, conflicts = [], [], {}
    for name in first:
        if name not in second:
            continue
        found = protocol_conflicts(first[name], second[name], varying)
        if found:
            unlike.append((name, ", ".join(sorted(found))))
            for key, pair in found.items():
                conflicts.setdefault((key, repr(pair[0]), repr(pair[1])), []).append(name)
        else:
            difference(first[name], second[name], varying)
            rows.append(Compared(name, first[name].value, second[name].value))
    if not rows and not unlike:
        raise ValueError(
            f"the two files share no metric: one has {_few(list(first))}, the other {_few(list(second))}"
        )
    if conflicts and not alike_only:
        lines = [
            f"  {key}: {left} against {right}, in {_few(names)}"
            for (key, left, right), names in conflicts.items()
        ]
        raise ValueError(
            "these numbers were measured under unlike protocols:\n" + "\n".join(lines) + "\n"
            "Measure both alike, name the keys under study (--varying), or leave these metrics out "
            "(--alike-only)."
        )
    only_a = tuple(name for name in first if name not in second)
    only_b = tuple(name for name in second if name not in first)
    return Comparison(tuple(rows), tuple(unlike), only_a, only_b)


def comparison_table(found: Comparison, a: str = "a", b: str = "b") -> str:
    """Plain aligned text: a metric a line with both values, their difference and its percentage; below, what
    was left out.

    Args:
      found: from `compare`.
      a, b: what the runs are called.
    """
    lines = [("metric", a, b, "difference", "%")]
    for row in found.rows:
        percent = f"{row.percent:+.1f}" if row.percent == row.percent else "-"
        lines.append((row.name, f"{row.a:.6g}", f"{row.b:.6g}", f"{row.difference:+.4g}", percent))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))])
        for line in lines
    ]
    text += [f"measured unlike, left out: {name} ({keys})" for name, keys in found.unlike]
    for label, names in ((a, found.only_a), (b, found.only_b)):
        text += [f"only in {label}: {', '.join(names)}"] if names else []
    return "\n".join(line.rstrip() for line in text)


def _by_name(results: Iterable[Result]) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for result in results:
        if result.name in found:
            raise ValueError(f"the metric {result.name!r} is twice in one file; keep one of them")
        found[result.name] = result
    return found


def _few(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
