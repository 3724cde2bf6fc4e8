"""Generated parts of pages, on a small checkout that is made up here, and the committed pages."""

import json
from pathlib import Path

import pytest

from experiments.pages import SECTIONS, main, pages, rewrite, sections_of
from experiments.tables import sources
from experiments.tables.markdown import link, markdown_table
from jaxtok.evaluate.protocol import Result, write_results
from jaxtok.run.claims import Arm, Claim, evaluate_claim

ROOT = Path(__file__).parents[2]
EMPTY = """# x
<!-- claims:begin -->
stale words
<!-- claims:end -->
between
<!-- results:begin -->
<!-- results:end -->
last, and `<!-- claims:begin -->` in a sentence
"""
SCORED = {"scorer_accuracy_on_real": 0.9966, "captions": 10, "per_caption": 50}


def outcome(**changes):
    """What `verify` writes, with one claim that holds and one that does not."""
    better = Claim("b is better", (Arm("a", "s/m"), Arm("b", "s/m")), margin=2.0)
    fewer = Claim("c|d has less", (Arm("c", "s/m"), Arm("d", "s/m")), relation="decreasing")
    scored = [
        evaluate_claim(better, {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.5]}),
        evaluate_claim(fewer, {"c": [2.0, 2.0, 2.0], "d": [1.0, 1.0, 3.0]}),
    ]
    whole = {"experiment": "toy", "preset": "tiny", "seeds": [0, 1, 2], "commit": "abc", "date": "2026-01-02"}
    return {**whole, "minutes": 1.0, "claims": scored, **changes}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "experiments" / "image"
    folder.mkdir(parents=True)
    (folder / "toy.claims.json").write_text(json.dumps(outcome()))
    results = [
        Result("tokenizer/psnr_uint8", 18.9419, {"images": 297, "split": "eval"}),
        Result("tokenizer/dead_codes", 0.0, {"images": 297}),
        Result("slow/sample_class_accuracy_digits_svc_w3", 0.982, {**SCORED, "guidance": 3.0}),
        Result("slow/samples_per_second_w3", 40.0, {"device": "cpu"}),
        Result("fast/samples_per_second_w3", 220.0, {"device": "cpu"}),
    ]
    write_results(folder / "toy.results.json", results)
    return tmp_path


def rewritten(root, text=EMPTY):
    return rewrite(text, root / "experiments", root)


def rows(text):
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if "|" in line
    ]


def test_claims(root):
    text = rewritten(root)
    assert ["b is better", "a: 2, b: 5.167", "yes", "2 reached (3.167)"] in rows(text)
    assert r"| c\|d has less | c: 2, d: 1.667 | **NO** |  |" in text
    assert "1 of 2 claims hold in every seed (0, 1, 2)" in text and "at commit abc" in text
    assert "[`toy.claims.json`](image/toy.claims.json)" in text  # from the folder of the page
    assert "trial" not in text


def test_a_margin_that_was_missed_is_said(root):
    scored = outcome()["claims"]
    scored[0] |= {"margin": 4.0, "margin_reached": False}
    (root / "experiments/image/toy.claims.json").write_text(json.dumps(outcome(claims=scored)))
    assert "4 NOT reached (3.167)" in rewritten(root)


def test_a_trial_says_that_it_is_one(root):
    (root / "experiments/image/toy.claims.json").write_text(json.dumps(outcome(steps=2)))
    assert "A trial with 2 steps per stage" in rewritten(root)


def test_results(root):
    found = rows(rewritten(root))
    assert ["tokenizer", "`psnr_uint8`", "18.94", "297 held-out images"] in found
    scored = "500 samples, guidance 3, scorer on real images 0.9966"
    assert ["slow", "`sample_class_accuracy_digits_svc_w3`", "0.982", scored] in found
    assert not any("dead_codes" in cell for row in found for cell in row)


def test_speed_on_a_cpu_is_a_ratio(root):
    text = rewritten(root)
    assert "5.5 x the slowest" in text and "220" not in text


def test_speed_on_an_accelerator_is_absolute_and_names_it(root):
    path = root / "experiments/image/toy.results.json"
    write_results(path, [Result("a/samples_per_second", 220.0, {"device": "NVIDIA H100"})])
    assert ["a", "`samples_per_second`", "220", "NVIDIA H100"] in rows(rewritten(root))


def test_only_the_generated_parts_change_and_twice_is_once(root):
    text = rewritten(root)
    assert text.startswith("# x\n") and "\nbetween\n" in text and "stale words" not in text
    assert text.endswith("\nlast, and `<!-- claims:begin -->` in a sentence\n")
    assert rewritten(root, text) == text


def test_without_files(tmp_path):
    text = rewritten(tmp_path)
    assert "No claims have been measured yet." in text and "No results have been recorded yet." in text


def test_main_writes_the_pages_that_changed(root, capsys):
    names = ("README.md", "experiments/RESULTS.md", "experiments/image/NOTES.md")
    for name in names:
        (root / name).write_text("no part is generated\n" if name == "README.md" else EMPTY)
    assert [path.relative_to(root).as_posix() for path in pages(root)] == list(names)
    main(root=root)
    assert capsys.readouterr().out.split() == [*names[1:]]
    assert (root / names[1]).read_text() == rewritten(root)
    assert "](toy.claims.json)" in (root / names[2]).read_text()
    with pytest.raises(SystemExit, match="usage"):
        main(["README.md"])


BEGIN, END = "<!-- claims:begin -->\n", "<!-- claims:end -->\n"


@pytest.mark.parametrize("text", [BEGIN, END + BEGIN, BEGIN + BEGIN + END, END, BEGIN + END + BEGIN])
def test_half_a_pair_of_comments(text, tmp_path):
    with pytest.raises(ValueError, match="a page needs the line '<!-- claims:begin -->' and, below it"):
        rewritten(tmp_path, text)


def test_an_unknown_part(tmp_path):
    with pytest.raises(ValueError, match="no generated part 'claim'; there are systems"):
        rewritten(tmp_path, "<!-- claim:begin -->\n<!-- claim:end -->\n")


@pytest.mark.parametrize("content", ["{", "[]", '{"claims": []}', '{"claims": [{}]}'])
def test_another_format(content, root):
    (root / "experiments/image/toy.claims.json").write_text(content)
    message = r"toy\.claims\.json (cannot|holds|lacks) .* Write it again with the verb `verify` and --out"
    with pytest.raises(ValueError, match=message):
        rewritten(root)


def test_results_without_anything_to_show(root):
    write_results(root / "experiments/image/toy.results.json", [Result("a/other", 1.0)])
    with pytest.raises(ValueError, match="none of the metrics"):
        rewritten(root)


def test_a_system_is_a_row_of_its_docstring(root):
    path = root / "experiments/image/toy.py"
    path.write_text('"""Toy: an image as\none token (arXiv 2401.00001).\n\nMore."""\nPRESETS = {}\n')
    path.with_name("analysis.py").write_text('"""Which is best?"""\nPRESETS = {}\n')
    path.with_name("part.py").write_text('"""Part: no experiment (arXiv 2401.00002)."""\n')
    counts = root / "tests/experiments/parameter_counts.json"
    counts.parent.mkdir(parents=True)
    stages = {"tokenizer": 12_345_678, "independent": 3, "next_scale": 1_500_000}
    counts.write_text(json.dumps({"toy": {"tiny": stages}}))
    text = sources.systems(root, root)
    paper = "[2401.00001](https://arxiv.org/abs/2401.00001)"
    assert rows(text)[2:] == [
        ["[Toy](experiments/image/toy.py)", paper, "an image as one token", "next scale"]
    ]
    assert text.startswith("**Image**\n\n")
    trained = "tokenizer 12 M, independent 3, next_scale 1.5 M"
    assert rows(sources.presets(root, root))[-1][1:] == ["`tiny`", trained]


def test_flags_are_fields_with_a_line_of_their_docstring(monkeypatch, root):
    path = root / "jaxtok/run/toy.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        'class Own:\n    """X.\n\n    Attributes:\n      many: one\n        or two.\n    """\n\n'
        "    many: tuple[int, ...] = (1, 2)\n\n"
        'class Toy:\n    """Y.\n\n    Attributes:\n      own: group.\n      on: or off.\n      kind: which.\n'
        '    """\n\n    own: Own = Own()\n    on: bool = False\n    kind: Literal["a", "b"] = "a"\n'
    )
    monkeypatch.setattr(sources, "_VERBS", {"toy": "Toy"})
    assert rows(sources.flags(root, root))[2:] == [
        ["`--own.many`", "`1 2`", "one or two."],
        ["`--on`", "off", "or off."],
        ["`--kind`", "`a`", "which. (a, b)"],
    ]
    path.write_text(path.read_text().replace("on: or off.", "off: or on."))
    with pytest.raises(ValueError, match="Toy has no line about 'on'"):
        sources.flags(root, root)


def test_markdown():
    assert markdown_table(("a", "b"), [("1", "x|y")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
    assert link(ROOT / "jaxtok/cli.py", ROOT / "tests", "cli") == "[cli](../jaxtok/cli.py)"


def test_every_generated_part_is_on_one_page():
    found = [name for page in pages(ROOT) for name in sections_of(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(SECTIONS)


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in pages(ROOT)])
def test_pages_repeat_the_committed_files(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    assert text == rewrite(text, path.parent, ROOT), "run: python -m experiments.pages"
