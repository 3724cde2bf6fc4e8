"""JSON files that may be damaged, of another version, or not ours: every problem is one plain sentence."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}
_NAMES |= {float: "a number", type(None): "null"}


def parse_json(content: bytes | str, where: str, remedy: str) -> Any:
    """The value in a piece of JSON, such as a line of a file or an entry of its metadata.

    Args:
      content: the piece.
      where: what a message calls it.
      remedy: what to do about a piece that is no JSON.

    Raises:
      ValueError: it is not UTF-8 or no JSON, holds NaN or an infinity, or is nested too deeply.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"it holds {constant}, which JSON does not have")

    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply for JSON of ours. {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{where} cannot be read as JSON: {error}. {remedy}") from error


def read_json(path: str | os.PathLike, remedy: str) -> Any:
    """The value in a JSON file.

    Args:
      path: the file.
      remedy: what to do about a file that is no JSON.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, is not UTF-8 or no JSON, holds NaN or an infinity, or is nested too
        deeply.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}. {remedy}") from error
    return parse_json(content, str(path), remedy)


def read_object(
    path: str | os.PathLike, fields: Mapping[str, type | tuple[type, ...]], remedy: str
) -> dict[str, Any]:
    """The object in a JSON file that must have some fields of some types, and may have others.

    Args:
      path: the file.
      fields: name -> type.
      remedy: what to do about a file that is something else.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: as `read_json`; or it holds no object, lacks fields, or has one of another type (named).
    """
    return check_object(read_json(path, remedy), fields, str(path), remedy)


def check_object(
    found: Any, fields: Mapping[str, type | tuple[type, ...]], where: str, remedy: str
) -> dict[str, Any]:
    """A value that must be an object with some fields of some types; see `read_object`.

    Raises:
      ValueError: it is no object, lacks fields, or has one of another type (named).
    """
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds {_named(found)}, but must hold an object. {remedy}")
    if absent := [name for name in fields if name not in found]:
        raise ValueError(f"{where} lacks {', '.join(absent)}. {remedy}")
    for name, kinds in fields.items():
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        # True is an int in Python, and not in a file.
        if not isinstance(found[name], wanted) or (isinstance(found[name], bool) and bool not in wanted):
            expected = " or ".join(_NAMES.get(kind, kind.__name__) for kind in wanted)
            raise ValueError(
                f"{where} has {_named(found[name])} as {name!r}, but it must be {expected}. {remedy}"
            )
    return found


def _named(value: Any) -> str:
    text = repr(value)
    return (
        f"{_NAMES.get(type(value), type(value).__name__)} ({text if len(text) < 60 else text[:57] + '...'})"
    )
