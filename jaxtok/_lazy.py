"""Public names that are imported on first use (PEP 562).

Data workers and `--help` import `jaxtok` without wanting JAX, whose import takes longer than all the rest of
their start. A package therefore lists its public names with the submodule that defines each one, and nothing
more happens until a name is used.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes the module-level `__getattr__` and `__dir__` of a package with lazy names.

    Args:
      package: The package's `__name__`.
      names: Public name -> submodule that defines it, relative to the package (`{"CodeSpace": "codes"}`).

    Returns:
      `(__getattr__, __dir__)`, to be assigned to these names at the top level of the package's `__init__.py`.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    def listing() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, listing
