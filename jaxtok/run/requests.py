"""Requests from files: one sample per line or row, for `sample --request`."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jaxtok.systems.contract import Request

# Column of a CSV file, or field of a JSON object -> field of a request.
_FIELDS = {"caption": "captions", "label": "labels", "length": "lengths", "items": "items"}


def read_request(path: str | Path) -> Request:
    """A request from a file.

    Args:
      path: `.txt`, a caption per line; `.csv` with the columns caption, label, length, items (numbers with
        blanks between); or `.jsonl`, an object with these fields per line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another ending, nothing in it, unknown fields, or a value of another type (named with its
        line).
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"--request {path}: there is no such file")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if path.suffix == ".txt":
        rows: list[Mapping[str, Any]] = [{"caption": line} for line in lines if line.strip()]
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(lines))
    elif path.suffix == ".jsonl":
        rows = [
            _object(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()
        ]
    else:
        raise ValueError(f"--request {path} ends in {path.suffix!r}; give a .txt, .csv or .jsonl file")
    if not rows:
        raise ValueError(f"--request {path} asks for nothing; write a caption per line")
    return _request(rows, str(path))


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds a {type(found).__name__}, but must be an object")
    return found


def _request(rows: Sequence[Mapping[str, Any]], path: str) -> Request:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if unknown := [name for name in names if name not in _FIELDS]:
        raise ValueError(f"{path} has the fields {unknown}; those of a request are {list(_FIELDS)}")
    fields: dict[str, list[Any]] = {}
    for name in names:
        for number, row in enumerate(rows, 1):
            if row.get(name) in (None, ""):
                raise ValueError(f"{path}: sample {number} has no {name!r}, others do; give it one")
            fields.setdefault(_FIELDS[name], []).append(_value(name, row[name], f"{path}: sample {number}"))
    return Request(**cast(Any, fields))


def _value(name: str, value: Any, where: str) -> Any:
    try:
        if name == "caption":
            return str(value)
        if name == "items":
            return [int(item) for item in (value.split() if isinstance(value, str) else value)]
        return int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name} is {value!r}, but must be numbers") from error


def repeated(request: Request, count: int) -> Request:
    """Every sample of a request `count` times, one after the other."""
    fields = {
        name: [value for value in given for _ in range(count)]
        for name in ("captions", "labels", "lengths", "items")
        if (given := getattr(request, name)) is not None
    }
    return Request(**cast(Any, fields), count=0 if fields else request.count * count)


def titles(request: Request) -> list[str]:
    """What figures call each sample of a request."""
    for given in (request.captions, request.labels, request.items):
        if given is not None:
            return [str(value) for value in given]
    return [f"sample {number}" for number in range(request.rows)]


def write_requests(path: Path, request: Request, files: Sequence[Path]) -> None:
    """Writes which file answers what, an object per line."""
    rows = []
    for number, file in enumerate(files):
        row: dict[str, Any] = {"file": file.name}
        for column, name in _FIELDS.items():
            given = getattr(request, name)
            if given is not None:
                row[column] = given[number]
        rows.append(row)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
