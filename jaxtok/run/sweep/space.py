"""What a sweep may change: ranges and choices for fields of a configuration."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from jaxtok.config_files import from_json, replace_at

Number = int | float


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; whole numbers if both are `int`.

    Attributes:
      low: smallest value.
      high: largest value.
      log: whether the logarithm is drawn evenly and not the number itself.
    """

    low: Number
    high: Number
    log: bool = False

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"range from {self.low} to {self.high}: it needs finite ends, the smaller first")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, not at {self.low}")

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values.

    Attributes:
      values: what a field can be; at least one, each once.
    """

    values: tuple[Any, ...]

    def __post_init__(self):
        if not self.values or len({self.label(value) for value in self.values}) < len(self.values):
            raise ValueError(f"a choice needs different values, at least one; it has {self.values}")

    @staticmethod
    def label(value: Any) -> bool | int | float | str | None:
        """How a study writes a value down: plain ones as they are, others as text."""
        return value if value is None or isinstance(value, bool | int | float | str) else repr(value)

    def value(self, label: Any) -> Any:
        """The value that a study wrote down as `label`."""
        return next(value for value in self.values if self.label(value) == label)


Space = Mapping[str, Range | Choice]


def annotated_space(config: Any, prefix: str = "") -> dict[str, Range | Choice]:
    """The fields of a configuration whose type says what to search, by dotted path.

    `learning_rate: Annotated[float, Range(1e-4, 1e-2, log=True)]` is such a field.
    """
    found = {}
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        own = [item for item in metadata if isinstance(item, Range | Choice)]
        if own:
            found[prefix + field.name] = own[0]
        elif dataclasses.is_dataclass(value):
            found |= annotated_space(value, f"{prefix}{field.name}.")
    return found


def parse_space(words: Sequence[str]) -> dict[str, Range | Choice]:
    """Reads `path=low:high`, `path=low:high:log` and `path=a,b,c`.

    Raises:
      ValueError: a word of another form; it is named.
    """
    space: dict[str, Range | Choice] = {}
    for word in words:
        path, equals, text = word.partition("=")
        parts = [part.strip() for part in text.split(":")]
        numbers = [_value(part) for part in parts[:2]]
        try:
            if not (path and equals and text) or path in space:
                raise ValueError("a path, once, an equals sign and what to try")
            if len(parts) == 1:
                space[path] = Choice(tuple(_value(part.strip()) for part in text.split(",")))
            elif len(parts) > 3 or parts[2:] not in ([], ["log"]) or not all(map(_is_number, numbers)):
                raise ValueError("numbers low:high or low:high:log")
            else:
                space[path] = Range(*numbers, log=parts[2:] == ["log"])
        except ValueError as error:
            raise ValueError(
                f"--space {word!r} cannot be read ({error}); write path=low:high, path=low:high:log or "
                "path=a,b,c"
            ) from None
    return space


def fit_space(space: Space, config: Any) -> dict[str, Range | Choice]:
    """A space whose ranges and choices have the type of the field that they vary: `1:3` of a float field are
    floats, `True` of a boolean one is no text.

    Raises:
      ValueError: a field is not there, is no number where a range says so, or is whole and its range is not;
        or a choice is nothing that the field can hold.
    """
    fitted = {}
    for path, what in space.items():
        old = value_at(config, path)
        if isinstance(what, Range):
            if not _is_number(old):
                raise ValueError(f"{path} is {old!r}, no number: list what to try, {path}=a,b,c")
            if isinstance(old, int) and not what.whole:
                raise ValueError(
                    f"{path} is a whole number ({old}), its range {what.low} to {what.high} is not"
                )
            if isinstance(old, float):
                what = dataclasses.replace(what, low=float(what.low), high=float(what.high))
        else:
            what = _typed(path, what, type_at(config, path))
        fitted[path] = what
    return fitted


def _typed(path: str, choice: Choice, kind: Any) -> Choice:
    """The choice with its values as the field's type has them."""

    def typed(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return value
        spoken = (
            {"True": True, "False": False, "None": None}.get(value, value)
            if isinstance(value, str)
            else value
        )
        problem: ValueError | None = None
        # A text field may hold "None" or 8 as text.
        for candidate in (value, spoken, json.dumps(value) if _is_number(value) else value):
            try:
                return from_json(kind, candidate, path)
            except ValueError as error:
                problem = problem or error
        raise ValueError(
            f"--space {path}: {value!r} is nothing that the field can hold. {problem}"
        ) from problem

    try:
        return Choice(tuple(map(typed, choice.values)))
    except ValueError as error:
        raise ValueError(f"{error} (choices of {path}: {', '.join(map(str, choice.values))})") from error


def type_at(config: Any, path: str) -> Any:
    """The declared type of the field at a dotted path, without its annotations."""
    parent, _, name = path.rpartition(".")
    return get_type_hints(type(value_at(config, parent) if parent else config))[name]


def value_at(config: Any, path: str) -> Any:
    """The value at a dotted path.

    Raises:
      ValueError: there is no such field.
    """
    value = config
    for name in path.split("."):
        if not dataclasses.is_dataclass(value) or name not in {f.name for f in dataclasses.fields(value)}:
            raise ValueError(f"no field {name!r} in {type(value).__name__}, on the way to {path!r}")
        value = getattr(value, name)
    return value


def configured(config: Any, space: Space, drawn: Mapping[str, Any]) -> Any:
    """The configuration with what a study drew, by path."""
    for path, label in drawn.items():
        what = space[path]
        config = replace_at(config, path, what.value(label) if isinstance(what, Choice) else label)
    return config


def listed(space: Space) -> dict[str, list[Any]]:
    """Every value of every field, for a grid.

    Raises:
      ValueError: a field has a range of real numbers, which nobody can list.
    """
    grid = {}
    for path, what in space.items():
        if isinstance(what, Choice):
            grid[path] = [what.label(value) for value in what.values]
        elif what.whole and not what.log:
            grid[path] = list(range(int(what.low), int(what.high) + 1))
        else:
            raise ValueError(f"a grid needs listed values, and {path} has a range: write {path}=a,b,c")
    return grid


def described(space: Space) -> Iterator[str]:
    """A line per field."""
    for path, what in space.items():
        if isinstance(what, Choice):
            yield f"{path}: {', '.join(map(str, what.values))}"
        else:
            yield f"{path}: {what.low:g} to {what.high:g}{' (logarithmic)' if what.log else ''}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
