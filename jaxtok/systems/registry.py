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


def system_class(name: str) -> Any:
    """The dataclass of a system's sizes, such as `InstellaT2I`.

    Raises:
      ValueError: an unknown system.
    """
    modules = system_modules()
    if name not in modules:
        raise ValueError(f"no system {name!r}; there are {sorted(modules)}")
    return importlib.import_module(modules[name]).SYSTEM
