"""The command lines of `jaxtok.data.check` and `jaxtok.data.pack`: a data set by its kind, and its flags."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from jaxtok.data.image_data import ImageData
from jaxtok.kinds import kind_named, kinds_of


def main(run: Callable[..., None], description: str, options: type) -> None:
    """Reads `KIND [--field value ...]` and calls `run(data, options)`; what a user can mend is one line.

    Args:
      run: what the command does.
      description: shown by `--help`.
      options: a dataclass of the command's own flags.
    """
    try:
        run(*parse(sys.argv[1:], description, options))
    except (ValueError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error


def parse(arguments: Sequence[str], description: str, options: type) -> tuple[Any, Any]:
    """The data set and the options that arguments name.

    Raises:
      ValueError: the first word names no kind of data.
    """
    if list(arguments[:1]) == ["--source"]:  # as it was said until December 2026
        arguments = arguments[1:]
    if not arguments or arguments[0].startswith("-"):
        named = ", ".join(kinds_of(ImageData))
        raise ValueError(f"the first word says what is read, one of {named}; then come its flags")
    kind: Any = kind_named(ImageData, arguments[0], "the kind of data")
    parts = [("data", tyro.conf.OmitArgPrefixes[kind]), ("options", tyro.conf.OmitArgPrefixes[options])]
    command: Any = tyro.cli(
        dataclasses.make_dataclass("Command", parts), args=arguments[1:], description=description
    )
    return command.data, command.options
