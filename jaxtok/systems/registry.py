"""The systems by name: `systems/<group>/<name>.py` is one if it ends with `SYSTEM = TheClass`."""

import functools
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DECLARED = re.compile(r"^SYSTEM = \w+$", re.MULTILINE)


@functools.cache
def system_modules() -> Mapping[str, str]:
    """Name -> module of every system; none of them is imported.

    Raises:
      ValueError: two systems have one name.
    """
    root, found = Path(__file__).parent, {}
    for file in sorted(root.glob("*/*.py")):
        if not _DECLARED.search(file.read_text(encoding="utf-8")):
            continue  # a part of systems
        module = f"{__package__}.{file.parent.name}.{file.stem}"
        if file.stem in found:
            raise ValueError(f"{found[file.stem]} and {module} are systems of one name; rename one of them")
        found[file.stem] = module
    return found


def system_name(system: Any, experiment: str) -> str:
    """What `system_class` finds the class of a system by: the experiment's name where that is its file."""
    kind = type(system)
    own = system_modules().get(experiment)
    return experiment if own == kind.__module__ else f"{kind.__module__}:{kind.__qualname__}"


def system_class(name: str) -> Any:
    """The dataclass of a system's sizes, such as `InstellaT2I`.

    Args:
      name: of a file in `systems/`, or "package.module:Class" of a system that lives elsewhere.

    Raises:
      ValueError: an unknown system.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"the system {name} cannot be imported ({error}); run where its module is found"
            ) from error
    modules = system_modules()
    if name not in modules:
        raise ValueError(f"no system {name!r}; there are {sorted(modules)}")
    return importlib.import_module(modules[name]).SYSTEM
