"""What the repository's history says about the change that is tested: its files, and whose turn it is."""

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

DAY = 24 * 3600
PARTS = 5
# A landing is what one session of at most three hours commits. Between two landings CI runs, longer than this
# pause; a session that pauses as long counts as several landings, which costs time and loses nothing.
PAUSE, SESSION = 20 * 60, 3 * 3600


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout


def commit_times(root: Path) -> list[int]:
    """Seconds since 1970 of all commits below HEAD, oldest first."""
    return sorted(int(line) for line in git(root, "log", "--format=%ct").split())


def recent_files(root: Path, last: int) -> set[str]:
    """Paths that commits of the day before `last` touch, and those that are not committed yet."""
    # `--since` would stop at the first older commit of a branch; merges are listed by what they bring.
    lines = git(root, "log", "-m", "--first-parent", "--name-only", "--format=//%ct").splitlines()
    found, recent = set(), True
    for line in lines:
        if line.startswith("//"):
            recent = int(line[2:]) > last - DAY
        elif line and recent:
            found.add(line)
    status = git(root, "status", "--porcelain", "--untracked-files=all", "--no-renames").splitlines()
    return found | {line[3:].strip('"') for line in status}


def turns(times: Sequence[int], parts: int = PARTS) -> set[int]:
    """Which of the parts are due.

    Landings take turns: the n-th runs part n modulo `parts`, so any `parts` successive ones run every part. A
    hash of the commit alone would leave a third of the tests out of five landings. The number of a landing is
    that of the pauses in the history before it; all numbers of the last session's commits are due.

    Args:
      times: of all commits, oldest first.
    """
    pauses = [0, *(after - before >= PAUSE for before, after in itertools.pairwise(times))]
    numbers = itertools.accumulate(pauses)
    return {number % parts for number, time in zip(numbers, times) if time > times[-1] - SESSION}
