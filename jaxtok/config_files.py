"""Configurations as JSON and back: frozen dataclasses of numbers, strings, tuples and other dataclasses."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxtok.aliases import current_fields, current_kind
from jaxtok.kinds import Kinds, kind_named


def to_json(config: Any) -> Any:
    """Plain JSON values of a configuration."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = {"type": config.kind_name()} if isinstance(config, Kinds) else {}
        return kind | {
            field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)
        }
    if isinstance(config, tuple | list):
        return [to_json(value) for value in config]
    if isinstance(config, float) and not math.isfinite(config):
        raise ValueError(f"a configuration holds {config}, which JSON cannot hold; use a finite number")
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ValueError(f"a configuration holds {config!r} ({type(config).__name__}), which JSON cannot hold")


def from_json(kind: Any, value: Any, path: str = "config") -> Any:
    """A configuration of type `kind` from what `to_json` gave.

    Fields that are absent keep their defaults and renamed ones are read under their old names, so that older
    files stay readable.

    Raises:
      ValueError: an unknown field or a value of another type, named with its path.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} is {value!r}; expected the fields of {getattr(kind, '__name__', kind)}")
        if issubclass(kind, Kinds):
            kind, value = _chosen(kind, value, path)
        value = current_fields(kind.__name__, value)
        hints = get_type_hints(kind)
        names = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(set(value) - names):
            raise ValueError(f"{path} has unknown fields {unknown}; known ones are {sorted(names)}")
        absent = dataclasses.MISSING
        needed = [f.name for f in dataclasses.fields(kind) if f.default is absent is f.default_factory]
        if missing := [name for name in needed if name not in value]:
            raise ValueError(f"{path} lacks {', '.join(missing)}, which have no defaults")
        return kind(**{name: from_json(hints[name], item, f"{path}.{name}") for name, item in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        problems = []
        for option in arguments:
            try:
                return from_json(option, value, path)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError("; ".join(problems))
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{path} is {value!r}; expected one of {arguments}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path} is {value!r}; expected a list")
        items = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(items) != len(value):
            raise ValueError(f"{path} has {len(value)} entries; expected {len(items)}")
        return tuple(
            from_json(item, entry, f"{path}[{i}]")
            for i, (item, entry) in enumerate(zip(items, value, strict=True))
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        kind is typing.Any
        or (isinstance(kind, type) and type(value) is kind)
        or (kind is None and value is None)
    ):
        return value
    if kind is types.NoneType and value is None:
        return value
    raise ValueError(f"{path} is {value!r}; expected {getattr(kind, '__name__', kind)}")


def _chosen(base: type[Kinds], value: Mapping[str, Any], path: str) -> tuple[type[Kinds], dict[str, Any]]:
    """The kind that a value names, and its fields; without a name it is of the annotated kind."""
    value = current_kind(value)
    name = value.pop("type", None)
    if name is None:
        if inspect.isabstract(base):
            raise ValueError(f"{path} does not say its type, and may be any {base.__name__}; name one")
        return base, value
    if not isinstance(name, str):
        raise ValueError(f"{path}.type is {name!r}; expected the name of a {base.__name__}")
    return kind_named(base, name, f"{path}.type"), value


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines "path: old -> new" for two JSON values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{path}.{name}" if path else str(name)
            if name not in old or name not in new:
                lines.append(f"{inner}: {old.get(name, '(absent)')} -> {new.get(name, '(absent)')}")
            else:
                lines += differences(old[name], new[name], inner)
        return lines
    return [] if old == new else [f"{path}: {old} -> {new}"]


def replace_at(config: Any, path: str, value: Any) -> Any:
    """A configuration with the field at a dotted path replaced.

    Raises:
      ValueError: there is no such field.
    """
    name, _, rest = path.partition(".")
    if not dataclasses.is_dataclass(config) or name not in {
        field.name for field in dataclasses.fields(config)
    }:
        raise ValueError(f"no field {name!r} in {type(config).__name__}, on the way to {path!r}")
    inner = replace_at(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})  # type: ignore[type-var]
