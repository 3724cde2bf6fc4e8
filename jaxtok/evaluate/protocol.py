"""A number together with how it was measured.

Two numbers of the same name are worth nothing side by side when one used another reference set, image count,
resize filter or guidance scale. A `Result` therefore carries its protocol, and `difference` refuses to
subtract unlike ones.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxtok.aliases import current_fields
from jaxtok.json_files import read_json


def _plain(value: Any) -> Any:
    """Turns NumPy and JAX scalars and arrays into what JSON can hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


@dataclasses.dataclass(frozen=True)
class Result:
    """One measured number.

    Attributes:
      name: metric name; it carries the main choice of the protocol, e.g. `ssim_gauss7_uint8`.
      value: the number, higher or lower is better as the metric's docstring says.
      protocol: everything that must agree before two values may be compared (image count, split, resolution,
        feature network, guidance, steps, EMA or raw weights, seed). JSON values only; it is stored as JSON
        would return it.
    """

    name: str
    value: int | float
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        protocol = {}
        for key, value in self.protocol.items():
            try:
                protocol[str(key)] = json.loads(json.dumps(value, default=_plain, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"protocol entry {key!r} of metric {self.name!r} cannot be written as JSON ({error}); "
                    "use numbers, strings, booleans, None, lists or dicts"
                ) from error
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "protocol", protocol)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready record; a value that is not finite becomes the string "nan", "inf" or "-inf"."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {"name": self.name, "value": value, "protocol": dict(self.protocol)}

    def renamed(self, name: str, protocol: Mapping[str, Any]) -> "Result":
        """The same number under another name, with these entries added to its protocol."""
        return Result(name, self.value, {**self.protocol, **protocol})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Result":
        """Inverse of `to_dict`.

        Raises:
          ValueError: the record lacks a field.
        """
        missing = [field for field in ("name", "value", "protocol") if field not in record]
        if missing:
            raise ValueError(f"result record {dict(record)} lacks {', '.join(missing)}")
        value, protocol = record["value"], record["protocol"]
        # JSON has no nan and no infinity: `to_dict` writes them as text.
        number = value in ("nan", "inf", "-inf") or type(value) in (int, float)
        if not number or not isinstance(protocol, Mapping):
            raise ValueError(
                f"result record {dict(record)} needs a number as value and an object as protocol"
            )
        return cls(str(record["name"]), float(value), protocol)

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.6g}"


def protocol_conflicts(a: Result, b: Result, varying: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Protocol keys in which two results differ, with both values; an absent key counts as "(absent)".

    Args:
      a: first result.
      b: second result.
      varying: keys that are meant to differ, because the comparison is about them (for example
        `("guidance",)`).
    """
    chosen = set(varying)
    keys = [key for key in {**a.protocol, **b.protocol} if key not in chosen]
    pairs = {key: (a.protocol.get(key, "(absent)"), b.protocol.get(key, "(absent)")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def difference(a: Result, b: Result, varying: Iterable[str] = ()) -> float:
    """`b.value - a.value`, once it is certain that both were measured alike.

    Args:
      a: the result to compare against.
      b: the result of interest.
      varying: protocol keys that are meant to differ.

    Raises:
      ValueError: other metric, or other protocol; the message names every differing key with both values.
    """
    if a.name != b.name:
        raise ValueError(f"{a.name!r} cannot be compared with {b.name!r}: these are different metrics")
    conflicts = protocol_conflicts(a, b, varying)
    if conflicts:
        listed = "; ".join(
            f"{key}: {left!r} against {right!r}" for key, (left, right) in sorted(conflicts.items())
        )
        raise ValueError(
            f"two values of {a.name!r} were measured under unlike protocols ({listed}). Measure both alike, "
            "or list the keys under study in `varying`"
        )
    return b.value - a.value


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Writes results as a JSON list that `read_results` restores exactly."""
    records = [result.to_dict() for result in results]
    Path(path).write_text(json.dumps(records, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_results(path: str | os.PathLike) -> list[Result]:
    """Reads a file that `write_results` wrote.

    Raises:
      ValueError: the file is not a list of result records.
    """
    records = read_json(path, "Expected a file written by write_results.")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} holds no list of result records; expected a file written by write_results")
    results = [Result.from_dict(record) for record in records]
    return [
        dataclasses.replace(result, protocol=current_fields("Protocol", result.protocol))
        for result in results
    ]


def table(results: Iterable[Result]) -> str:
    """Plain aligned table, one result a line: name, value, protocol."""
    rows = [
        (
            result.name,
            f"{result.value:.6g}",
            ", ".join(f"{key}={value}" for key, value in result.protocol.items()),
        )
        for result in results
    ]
    rows = [("metric", "value", "protocol"), *rows]
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(
        f"{name:<{name_width}}  {value:>{value_width}}  {protocol}".rstrip() for name, value, protocol in rows
    )
