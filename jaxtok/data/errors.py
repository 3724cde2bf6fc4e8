"""What can be wrong with records and with the packages that read them."""

import functools
import importlib
import logging
from types import ModuleType

_log = logging.getLogger(__name__)


class BadRecord(Exception):
    """One record cannot be decoded: the pipeline replaces it.

    Attributes:
      key: Name of the record in its source (file name, row, ...).
      reason: What went wrong.
    """

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class BadDataError(RuntimeError):
    """More records than allowed cannot be decoded."""


@functools.cache
def notice(message: str) -> None:
    """Warns of data that is not read, or not as a person may expect; of the same once in a process."""
    _log.warning("%s", message)


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional dependency.

    Raises:
      ImportError: It is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is not installed. Install it with pip install "jaxtok[{extra}]".'
        ) from error
