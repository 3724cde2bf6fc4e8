"""`pytest -m slow --select-changed`: slow tests that the recent change needs, and a part of the others."""

import collections
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.selection.choose import Candidate, choose
from tests.selection.history import PARTS, commit_times, git, recent_files, turns
from tests.selection.imports import ImportGraph

ROOT = Path(__file__).parents[2]
_REPORT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--select-changed",
        action="store_true",
        help="of the tests that -m selects, run those that need a file of the last day's commits (by "
        f"imports), and in turn a {PARTS}th of the others",
    )


def repository(root: Path = ROOT) -> ImportGraph:
    """The graph of the files that git knows, and of new ones that it does not ignore."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    paths = [path for path in listed if (root / path).is_file()]
    read = lambda path: (root / path).read_text(encoding="utf-8") if path.endswith((".py", ".ipynb")) else ""
    systems = {Path(path).stem: path for path in paths if fnmatch(path, "jaxtok/systems/*/*.py")}
    return ImportGraph({path: read(path) for path in paths}, systems)


def _candidate(item: pytest.Item) -> Candidate:
    fixtures = set()
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        for definition in definitions:
            if definition.baseid is not None and definition.func.__code__.co_filename.endswith("conftest.py"):
                path = Path(definition.func.__code__.co_filename).relative_to(ROOT).as_posix()
                fixtures.add(f"{path}::{definition.func.__name__}")
    marks = tuple(dict.fromkeys(name for mark in item.iter_markers("belongs_to") for name in mark.args))
    return Candidate(item.nodeid, item.path.relative_to(ROOT).as_posix(), frozenset(fixtures), marks)


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.select_changed:
        return
    try:
        whole = git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "false"
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        whole = False
    if not whole:
        config.stash[_REPORT] = ["all tests: there is no whole history to select by"]
        return
    times = commit_times(ROOT)
    changed, due = recent_files(ROOT, times[-1]), turns(times)
    candidates = [_candidate(item) for item in items]
    chosen = choose(candidates, repository(), changed, due)
    left = [item for item in items if item.nodeid not in chosen]
    items[:] = [item for item in items if item.nodeid in chosen]
    config.hook.pytest_deselected(items=left)
    config.stash[_REPORT] = _report(candidates, chosen, changed, due)


def _report(candidates, chosen, changed, due) -> list[str]:
    """Per test file: how many of its tests run, and for which reasons."""
    parts = ", ".join(str(part + 1) for part in sorted(due))
    lines = [
        f"{len(chosen)} of {len(candidates)} tests: {len(changed)} files changed in the last day of commits; "
        f"in turn, part {parts} of {PARTS} of the tests that need none of them"
    ]
    by_file = collections.defaultdict(list)
    for candidate in candidates:
        by_file[candidate.file].append(chosen.get(candidate.name))
    for file, reasons in sorted(by_file.items()):
        counts = collections.Counter(reason for reason in reasons if reason)
        why = "; ".join(f"{count} {reason}" for reason, count in counts.most_common(4))
        more = f"; {len(counts) - 4} more reasons" if len(counts) > 4 else ""
        lines.append(f"  {file}: {counts.total()} of {len(reasons)}{': ' if why else ''}{why}{more}")
    return lines


def pytest_sessionfinish(session: pytest.Session) -> None:
    report = session.config.stash.get(_REPORT, None)
    if report and hasattr(session.config, "workeroutput"):  # a worker of xdist: the controller prints
        session.config.workeroutput["selection"] = report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    report = getattr(node, "workeroutput", {}).get("selection")
    if report:
        node.config.stash[_REPORT] = report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    report = terminalreporter.config.stash.get(_REPORT, None)
    if report:
        terminalreporter.section("selected tests")
        for line in report:
            terminalreporter.write_line(line)
