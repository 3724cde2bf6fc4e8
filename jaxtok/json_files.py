"""JSON files that may be damaged, of another version, or not ours: every problem is one plain sentence."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}


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
    path = Path(path)

    def refuse(constant: str) -> Any:
        raise ValueError(f"it holds {constant}, which JSON does not have")

    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply for JSON of ours. {remedy}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}. {remedy}") from error


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
    found = read_json(path, remedy)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {_named(found)}, but must hold an object. {remedy}")
    if absent := [name for name in fields if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(absent)}. {remedy}")
    for name, kinds in fields.items():
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        # True is an int in Python, and not in a file.
        if not isinstance(found[name], wanted) or (isinstance(found[name], bool) and bool not in wanted):
            expected = " or ".join(_NAMES.get(kind, kind.__name__) for kind in wanted)
            raise ValueError(
                f"{path} has {_named(found[name])} as {name!r}, but it must be {expected}. {remedy}"
            )
    return found


def _named(value: Any) -> str:
    text = repr(value)
    return (
        f"{_NAMES.get(type(value), type(value).__name__)} ({text if len(text) < 60 else text[:57] + '...'})"
    )
