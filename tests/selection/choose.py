"""Which slow tests a change needs, and why."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence, Set
from fnmatch import fnmatch

from tests.selection.history import PARTS
from tests.selection.imports import ImportGraph

# What decides how all tests run; a change of it leaves nothing that could be left out.
EVERYTHING = ("pyproject.toml", ".ci/*", "conftest.py", "*/conftest.py", "tests/selection/*")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A test that may be left out.

    Attributes:
      name: pytest's node id.
      file: where it stands.
      fixtures: nodes of the graph that it asks for, such as "tests/conftest.py::small_run".
      belongs_to: the modules, packages or paths that it names as its own. Then strings of its file do not
        count, since a file about every system names all of them.
    """

    name: str
    file: str
    fixtures: frozenset[str] = frozenset()
    belongs_to: tuple[str, ...] = ()


def part_of(name: str, parts: int = PARTS) -> int:
    """Which part of the rotation a test is in: the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % parts


def everything(changed: Iterable[str]) -> str | None:
    """The changed file for which all tests run, if there is one."""
    return next((path for path in sorted(changed) for glob in EVERYTHING if fnmatch(path, glob)), None)


def choose(
    candidates: Sequence[Candidate], graph: ImportGraph, changed: Set[str], due: Set[int]
) -> dict[str, str]:
    """Name -> reason, of the tests to run.

    Raises:
      ValueError: a test belongs to something that is not there.
    """
    cause = everything(changed)
    if cause is not None:
        return {candidate.name: f"{cause} changed" for candidate in candidates}
    chosen, reached = {}, {}
    for candidate in candidates:
        key = (candidate.file, candidate.fixtures, candidate.belongs_to)
        if key not in reached:
            reached[key] = sorted(_needs(candidate, graph) & changed)
        if reached[key]:
            more = f" and {len(reached[key]) - 1} more" if len(reached[key]) > 1 else ""
            chosen[candidate.name] = f"needs {_nearest(candidate, reached[key])}{more}"
        elif part_of(candidate.name) in due:
            chosen[candidate.name] = "its turn"
    return chosen


def _needs(candidate: Candidate, graph: ImportGraph) -> set[str]:
    own = set()
    for name in candidate.belongs_to:
        files = graph.files_of(name)
        if not files:
            raise ValueError(
                f"{candidate.name} belongs_to({name!r}), but no module, package or path has that name"
            )
        own |= files
    needed = graph.needs({candidate.file}, mentioned=not candidate.belongs_to)
    return needed | graph.needs(own | candidate.fixtures)


def _nearest(candidate: Candidate, paths: Sequence[str]) -> str:
    """The path to name as the reason: the test's own file, what it belongs to, else the first."""
    own = [path for path in paths if path == candidate.file]
    named = [p for p in paths for name in candidate.belongs_to if p.startswith(name.replace(".", "/"))]
    return (own + named + list(paths))[0]
