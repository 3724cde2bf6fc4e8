"""The README's commands, paths and snippets are real."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match[1], match[2]) for match in FENCE.finditer(README)]

# A token is a path into the checkout if it starts with one of the top-level folders.
TOP = ("jaxtok", "experiments", "tests", "notebooks")
PATH = re.compile(rf"(?<![\w./$-])(?:{'|'.join(TOP)})/[\w./-]*\w")


SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", README, flags=re.MULTILINE)[1:]}
QUICK_START = [block for _, block in FENCE.findall(SECTIONS["Quick start"])]


def experiment_commands() -> list[list[str]]:
    """Arguments of the commands that run an experiment, without the interpreter: [script, *arguments]."""
    lines = [line for language, block in BLOCKS if language != "python" for line in block.splitlines()]
    found = [re.search(r"python (experiments/[^\"]*)", line) for line in lines]
    return [shlex.split(command) for command in dict.fromkeys(match[1] for match in found if match)]


def test_quick_start_is_two_one_line_commands():
    assert [len(block.splitlines()) for block in QUICK_START] == [1, 1]


def test_ci_runs_the_test_command_of_the_quick_start():
    assert QUICK_START[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(PATH.findall(README))))
def test_path_exists(path):
    assert (ROOT / path).exists()


def test_links_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    used = {name for extras in re.findall(r"\.\[([\w,]+)\]", README) for name in extras.split(",")}
    assert used <= set(project["optional-dependencies"])


@pytest.mark.parametrize("command", experiment_commands(), ids=" ".join)
def test_command_parses(command, monkeypatch, capsys):
    """`--help` after the command's verb works and knows the flags that the command uses."""
    script, *arguments = command
    verb = [arguments[0]] if arguments and not arguments[0].startswith("-") else []
    monkeypatch.setattr("sys.argv", [script, *verb, "--help"])
    monkeypatch.setenv("COLUMNS", "300")  # so that no flag is broken over two lines
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert [flag for flag in arguments if flag.startswith("--") and flag not in shown] == []


@pytest.mark.parametrize("snippet", [block for language, block in BLOCKS if language == "python"])
def test_snippet_runs(snippet):
    exec(compile(snippet, "README.md", "exec"), {})
