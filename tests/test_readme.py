"""Commands, paths, links and snippets of the README and of all other pages are real."""

import importlib
import os
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro

from experiments.pages import pages
from tests.filled import draw_like

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in pages(ROOT)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [needed for names in PROJECT["optional-dependencies"].values() for needed in names]
LARGEST = 8000  # bytes of the README

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, language, block) for page, text in PAGES.items() for language, block in FENCE.findall(text)]
# What `text` blocks show was printed; everything else that is no Python is typed into a shell.
LINES = {
    line.lstrip("!")
    for _, language, block in BLOCKS
    if language not in ("python", "text")
    for line in block.splitlines()
}
INLINE = {
    span
    for text in PAGES.values()
    for span in re.findall(r"(?<!`)`((?:python|pip) [^`\n]+)`", FENCE.sub("", text))
}
COMMANDS = sorted(LINES | INLINE)

# A token is a path into the checkout if it starts with one of the top-level folders.
TOP = ("jaxtok", "experiments", "tests", "notebooks", ".ci")
PATH = re.compile(rf"(?<![\w./$-])(?:{'|'.join(map(re.escape, TOP))})/[\w./-]*\w")

each_page = pytest.mark.parametrize("page", PAGES)
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", README, flags=re.MULTILINE)[1:]}
QUICK_START = [block for _, block in FENCE.findall(SECTIONS["Quick start"])]


def test_the_readme_is_one_short_page():
    assert len(README.encode()) <= LARGEST
    assert README.count("![") == 1


def test_quick_start_is_two_one_line_commands():
    assert [len(block.splitlines()) for block in QUICK_START] == [1, 1]


def test_ci_runs_the_test_command_of_the_quick_start():
    assert QUICK_START[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_page_is_linked_from_the_readme():
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in README] == []


def test_every_notebook_is_on_its_page():
    names = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert [name for name in names if f"]({name})" not in PAGES["notebooks/README.md"]] == []


@each_page
def test_paths_exist(page):
    text = re.sub(r"[\w./-]*<\w+>[\w./<>-]*", "", PAGES[page])  # jaxtok/systems/<group>/<name>.py
    text = re.sub(r"\]\([^)]+\)", "]", text)  # links are relative to their page
    assert [path for path in sorted(set(PATH.findall(text))) if not (ROOT / path).exists()] == []


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_exist(page):
    folder, missing = (ROOT / page).parent, []
    for link in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", PAGES[page])):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (folder / file).resolve() if file else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(link)
    assert missing == []


def test_quantizers_of_the_table_exist():
    """`file.Name` in the table of the quantizers is there."""
    rows = [line for line in PAGES["jaxtok/quantize/README.md"].splitlines() if line.startswith("|")]
    named = re.findall(r"`(\w+)\.(\w+)`", "\n".join(rows))
    missing = [
        f"{file}.{name}"
        for file, name in named
        if not hasattr(importlib.import_module(f"jaxtok.quantize.{file}"), name)
    ]
    assert named and missing == []


def test_extras_exist():
    for page, text in PAGES.items():
        used = {name for found in re.findall(r"(?:\.|jaxtok)\[([\w,]+)\]", text) for name in found.split(",")}
        assert used <= set(PROJECT["optional-dependencies"]), page


# -- commands --


def words_of(line: str) -> list[list[str]]:
    """The commands of a line, without comments; those inside of quotes (`--wrap="srun ..."`) come too."""
    found, queue = [], [line]
    while queue:
        lexer = shlex.shlex(queue.pop(), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, "&&"]:
            if word in ("&&", "||", "|", ";"):
                found += [command] if command else []
                command = []
                continue
            command.append(word)
            quoted = re.match(r"(?:--(?:wrap|command)=)?((?:srun |cd |python|\.venv/).* .*)", word)
            if quoted:
                queue.append(quoted[1])
    return found


def test_words_of_a_line():
    line = """a 'b c' && sbatch --n=1 --wrap="srun python x.py --f 'g h'"  # why"""
    assert words_of(line) == [
        ["a", "b c"],
        ["sbatch", "--n=1", "--wrap=srun python x.py --f 'g h'"],
        ["srun", "python", "x.py", "--f", "g h"],
    ]


class Calls:
    """Stands in for what a command would start: remembers that it was reached."""

    def __init__(self):
        self.count = 0

    def __call__(self, *arguments, **named):
        self.count += 1


def check_experiment(script: str, arguments: list[str], monkeypatch, capsys) -> None:
    """The command line of the experiment takes all arguments; what the verb would do is left out."""
    from jaxtok.run import verbs
    from jaxtok.run.plan import verb as plan
    from jaxtok.run.sweep import verb as sweep
    from jaxtok.train import distributed

    called = Calls()
    for module, names in (
        (verbs, ("train", "evaluate", "sample", "encode", "decode", "verify")),
        (plan, ("plan",)),
        (sweep, ("sweep",)),
    ):
        for name in names:
            monkeypatch.setattr(module, f"{name}_verb", called)
    for name in ("initialize", "finish"):
        monkeypatch.setattr(distributed, name, lambda *_: None)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    if "--config" in arguments:  # a file that another command has written by then
        place = arguments.index("--config")
        arguments = arguments[:place] + arguments[place + 2 :]
    monkeypatch.setattr("sys.argv", [script, *arguments])
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert not stop.value.code
    else:
        runpy.run_path(str(ROOT / script), run_name="__main__")
        assert called.count == 1, capsys.readouterr().err


def check_module(name: str, arguments: list[str], capsys) -> None:
    """`python -m name arguments`."""
    if name in ("pytest", "venv", "experiments.pages", "tests.experiments.test_experiments"):
        return  # the first two are checked below, the others take no arguments
    module = importlib.import_module(name)
    if name.startswith("jaxtok.data."):
        from jaxtok.data.command import parse

        parse(arguments, "", module.Options)
        return
    if hasattr(module, "Options"):
        tyro.cli(module.Options, args=arguments)
        return
    main = importlib.import_module(f"{name}.__main__").main
    with pytest.raises(SystemExit) as stop:  # its files are not there
        main(arguments)
    assert stop.value.code == 1, capsys.readouterr().err


def check_pytest(arguments: list[str], config) -> None:
    """Options that pytest knows, with the plugins of this run, and files that exist."""
    known, unknown = config._parser.parse_known_and_unknown_args(arguments)
    assert unknown == []
    assert [path for path in known.file_or_dir if not (ROOT / path).exists()] == []


TOOLS = ("pre-commit", "ruff", "pyright")  # extras bring them
OTHERS = ("cd", ".", "git", "gcloud", "sbatch", "srun", "taskset")


@pytest.mark.parametrize("line", COMMANDS, ids=str)
def test_command_is_real(line, monkeypatch, capsys, request, tmp_path):
    """Every command of a line parses as it would if it were run; a tool that nobody knows is an error."""
    monkeypatch.setenv("COLUMNS", "300")
    for command in words_of(line):
        tool, *arguments = command
        while tool in ("srun", "taskset"):  # they start what comes after their options
            place = next(i for i, word in enumerate(arguments) if "python" in word)
            tool, *arguments = arguments[place:]
        tool = tool.removeprefix(".venv/bin/")
        if tool in ("python", "python3"):
            if arguments[0] == "-m":
                name, *rest = arguments[1:]
                check_pytest(rest, request.config) if name == "pytest" else check_module(name, rest, capsys)
            else:
                monkeypatch.chdir(tmp_path)
                check_experiment(arguments[0], arguments[1:], monkeypatch, capsys)
        elif tool == "pytest":
            check_pytest(arguments, request.config)
        elif tool == "pip":
            assert arguments[0] == "install" and arguments[-2] == "-e", command
        elif tool in TOOLS:
            assert any(re.match(rf"{tool}\b", needed) for needed in EXTRAS), command
        elif tool == ".ci/run":
            assert os.access(ROOT / tool, os.X_OK)
            assert all(f"  {word})" in (ROOT / tool).read_text(encoding="utf-8") for word in arguments)
        else:
            assert tool in OTHERS, command


# -- Python --

SNIPPETS = [
    pytest.param(page, block, id=f"{page}:{index}")
    for index, (page, language, block) in enumerate(BLOCKS)
    if language == "python"
]


def write_system(folder: Path) -> None:
    """What `jaxtok.load` finds: the smallest published preset, with drawn parameters."""
    from jaxtok.run import save_pretrained
    from jaxtok.run.trained import Trained
    from jaxtok.systems.image.instella_t2i import InstellaT2I

    model = InstellaT2I.tiny()
    shapes = model.shapes()
    variables = {name: draw_like(shapes[name]) for name in ("tokenizer", "diffusion")}
    save_pretrained(Trained(model, variables, {"experiment": "instella_t2i"}), folder)


@pytest.mark.parametrize("page, snippet", SNIPPETS)
def test_snippet_runs(page, snippet, tmp_path, monkeypatch, capsys):
    """A snippet that loads a run finds one; it prints the shapes that its comments name."""
    for run in re.findall(r'"(runs/[\w/-]+)"', snippet):
        write_system(tmp_path / run)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, page, "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    shapes = re.findall(r"^print\(.*\)  # ((?:\([\d, ]+\) ?)+)", snippet, flags=re.MULTILINE)
    assert {shape.strip() for shape in shapes} <= set(printed)
