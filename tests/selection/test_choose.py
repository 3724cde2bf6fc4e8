"""Which slow tests are chosen, on a made-up repository and a made-up history."""

import itertools
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.selection.choose import Candidate, choose, part_of
from tests.selection.history import PARTS, PAUSE, SESSION, commit_times, recent_files, turns
from tests.selection.imports import ImportGraph

FILES = {
    "jaxtok/a.py": "import jaxtok.common",
    "jaxtok/b.py": "import jaxtok.common",
    "jaxtok/common.py": "",
    "tests/conftest.py": "def run_of_b():\n    import jaxtok.b",
    "tests/test_a.py": "import jaxtok.a",
    "tests/test_b.py": "import jaxtok.b",
    "tests/test_both.py": "names = 'jaxtok.a', 'jaxtok.b'",
    "tests/test_fixture.py": "",
}
A = Candidate("tests/test_a.py::test", "tests/test_a.py")
B = Candidate("tests/test_b.py::test", "tests/test_b.py")
BOTH_A = Candidate("tests/test_both.py::test[a]", "tests/test_both.py", belongs_to=("jaxtok.a",))
BOTH_B = Candidate("tests/test_both.py::test[b]", "tests/test_both.py", belongs_to=("jaxtok.b",))
FIXTURE = Candidate(
    "tests/test_fixture.py::test", "tests/test_fixture.py", frozenset({"tests/conftest.py::run_of_b"})
)
ALL = (A, B, BOTH_A, BOTH_B, FIXTURE)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("jaxtok/a.py", {A, BOTH_A}),
        ("jaxtok/b.py", {B, BOTH_B, FIXTURE}),
        ("jaxtok/common.py", set(ALL)),
        ("tests/test_both.py", {BOTH_A, BOTH_B}),
        ("README.md", set()),
        ("pyproject.toml", set(ALL)),
        (".ci/run", set(ALL)),
        ("tests/conftest.py", set(ALL)),
        ("tests/inspect/conftest.py", set(ALL)),
    ],
)
def test_a_change_chooses_what_needs_it(changed, expected):
    chosen = choose(ALL, ImportGraph(FILES), {changed}, due=set())
    assert set(chosen) == {candidate.name for candidate in expected}
    assert all(changed in reason for reason in chosen.values())


def test_the_others_take_turns():
    graph, runs = ImportGraph(FILES), []
    for due in range(PARTS):
        chosen = choose(ALL, graph, set(), {due})
        assert set(chosen.values()) <= {"its turn"}
        runs += chosen
    assert sorted(runs) == sorted(candidate.name for candidate in ALL)


def test_the_parts_are_about_equal():
    counts = [0] * PARTS
    for number in range(1000):
        counts[part_of(f"tests/test_x.py::test[{number}]")] += 1
    assert min(counts) > 150


def test_a_mark_that_names_nothing_is_an_error():
    wrong = Candidate("tests/test_a.py::test", "tests/test_a.py", belongs_to=("jaxtok.nowhere",))
    with pytest.raises(ValueError, match=r"belongs_to\('jaxtok.nowhere'\)"):
        choose([wrong], ImportGraph(FILES), {"jaxtok/a.py"}, set())


pauses = st.lists(st.integers(0, SESSION // 5), max_size=5)  # between the commits of a session


@given(st.lists(st.tuples(st.integers(PAUSE, 10 * SESSION), pauses), min_size=PARTS, max_size=12))
def test_five_successive_landings_run_every_part(landings):
    times, due = [0], []
    for before, between in landings:
        times += itertools.accumulate(between, initial=times[-1] + before)
        due.append(turns(times))
    for first in range(len(due) - PARTS + 1):
        assert set().union(*due[first : first + PARTS]) == set(range(PARTS))


def test_a_landing_without_long_pauses_runs_one_part():
    assert turns([0, 60, SESSION + 100, SESSION + 200]) == {1} and turns([0]) == {0}


@pytest.fixture
def commit(tmp_path):
    """Commits a file at a time; the repository lies in `tmp_path`."""

    def git(*words, **environment):
        subprocess.run(
            ["git", *words], cwd=tmp_path, check=True, env=os.environ | environment, capture_output=True
        )

    def make(path, hours):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{hours}")
        date = f"{1_800_000_000 + int(3600 * hours)} +0000"
        git("add", path)
        identity = ("-c", "user.name=x", "-c", "user.email=x@x")
        git(*identity, "commit", "-m", path, GIT_COMMITTER_DATE=date, GIT_AUTHOR_DATE=date)

    git("init", "-q")
    return make


def test_recent_files_are_those_of_the_last_day_and_those_not_committed(commit, tmp_path):
    for path, hours in (("old.py", 0), ("folder/new.py", 30), ("newer.py", 50)):
        commit(path, hours)
    (tmp_path / "draft.py").write_text("")
    (tmp_path / "old.py").write_text("changed")
    times = commit_times(tmp_path)
    assert [(time - times[0]) // 3600 for time in times] == [0, 30, 50]
    assert recent_files(tmp_path, times[-1]) == {"folder/new.py", "newer.py", "draft.py", "old.py"}
