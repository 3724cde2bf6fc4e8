"""Configurations of several kinds: a field that is annotated with their base holds any of them.

A kind is chosen by its name, which is found in the files of the base's package, or by where it stands,
"package.module:Class", so that one of another package works without a registry.
"""

import dataclasses
import importlib
import inspect
import re
from abc import ABC
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

_DECLARED = re.compile(r'^    kind = "[\w-]+"$', re.MULTILINE)


class Kinds(ABC):  # noqa: B024 (each base says what is abstract)
    """Base of such configurations, which are frozen dataclasses.

    Attributes:
      kind: name of the kind in its home package, declared in the class itself.
      home: package in which kinds are found by name.
    """

    kind: ClassVar[str] = ""
    home: ClassVar[str] = ""

    @classmethod
    def kind_name(cls) -> str:
        """Name that `kind_named` finds this kind by: short in the home package, else "module:Class"."""
        own = cls.__dict__.get("kind")
        here = cls.__module__.startswith(f"{cls.home}.")
        return own if own and here else f"{cls.__module__}:{cls.__qualname__}"

    def carried(self) -> set[str]:
        """Names of fields whose values another kind takes over where it has them: all."""
        return {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]


def kinds_of(base: type[Kinds]) -> Mapping[str, type[Kinds]]:
    """Every kind of a base in its home package, by name, in alphabetical order."""
    package = importlib.import_module(base.home)
    for folder in package.__path__:
        for file in sorted(Path(folder).glob("*.py")):
            if _DECLARED.search(file.read_text(encoding="utf-8")):
                importlib.import_module(f"{base.home}.{file.stem}")
    found = {
        kind.kind_name(): kind for kind in _concrete(base) if kind.__module__.startswith(f"{base.home}.")
    }
    return dict(sorted(found.items()))


def _concrete(base: type[Kinds]) -> Iterator[type[Kinds]]:
    if not inspect.isabstract(base):
        yield base
    for kind in base.__subclasses__():
        yield from _concrete(kind)


def kind_named(base: type[Kinds], name: str, where: str) -> type[Kinds]:
    """A kind of a base by its name.

    Args:
      base: what it has to be.
      name: a short name, or "package.module:Class".
      where: what asks for it, for messages.

    Raises:
      ValueError: there is no such kind.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{where}: {name!r} cannot be imported ({error}). Give package.module:Class."
            ) from error
        if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
            raise ValueError(
                f"{where}: {name!r} is no {base.__name__}. Choose a class that is derived from it."
            )
        return found
    known = kinds_of(base)
    if name not in known:
        raise ValueError(
            f"{where} is {name!r}; expected one of {', '.join(known)}, or package.module:Class of another"
        )
    return known[name]


def replace_kind(config: Any, path: str, name: str) -> Any:
    """A configuration with another kind at a dotted path; fields that both kinds have keep their values.

    Raises:
      ValueError: there is no such field, or it is of one kind only.
    """
    field, _, rest = path.partition(".")
    if not dataclasses.is_dataclass(config) or isinstance(config, type) or not hasattr(config, field):
        raise ValueError(f"--{path}:{name}: no field {field!r} in {type(config).__name__}")
    value = getattr(config, field)
    if rest:
        return dataclasses.replace(config, **{field: replace_kind(value, rest, name)})
    annotated = get_type_hints(type(config))[field]
    bases = [kind for kind in (annotated, *get_args(annotated)) if _is_base(kind)]
    if not bases:
        raise ValueError(f"--{path}:{name}: {field!r} has no kinds; its type is {annotated}")
    chosen: Any = kind_named(bases[0], name, f"--{path}")
    if chosen is type(value):
        return config
    shared = {f.name for f in dataclasses.fields(chosen)} & (set() if value is None else value.carried())
    return dataclasses.replace(config, **{field: chosen(**{name: getattr(value, name) for name in shared})})


def _is_base(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Kinds)
