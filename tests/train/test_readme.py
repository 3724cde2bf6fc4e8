"""Tables of measured files in Markdown, and the repository's own README against its committed files."""

import json
from pathlib import Path

import pytest

from jaxtok.evaluate.protocol import Result, write_results
from jaxtok.run.claims import Arm, Claim, scorer
from jaxtok.train.readme import main, markdown_table, rewrite

ROOT = Path(__file__).parents[2]
EMPTY = """# x
<!-- claims:begin -->
stale words
<!-- claims:end -->
between
<!-- results:begin --><!-- results:end -->
last
"""
JUDGED = {"judge_accuracy_on_real": 0.9966, "captions": 10, "per_caption": 50}


def outcome(**changes):
    """What `verify` writes, with one claim that holds and one that does not."""
    better = Claim("b is better", (Arm("a", "s/m"), Arm("b", "s/m")), margin=2.0)
    fewer = Claim("c|d has less", (Arm("c", "s/m"), Arm("d", "s/m")), relation="decreasing")
    scored = [
        scorer(better, {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.5]}),
        scorer(fewer, {"c": [2.0, 2.0, 2.0], "d": [1.0, 1.0, 3.0]}),
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
        Result("slow/sample_class_accuracy_digits_svc_w3", 0.982, {**JUDGED, "guidance": 3.0}),
        Result("slow/samples_per_second_w3", 40.0, {"device": "cpu"}),
        Result("fast/samples_per_second_w3", 220.0, {"device": "cpu"}),
    ]
    write_results(folder / "toy.results.json", results)
    return tmp_path


def rows(text):
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if "|" in line
    ]


def test_claims(root):
    text = rewrite(EMPTY, root)
    assert ["b is better", "a: 2, b: 5.167", "yes", "2 reached (3.167)"] in rows(text)
    assert r"| c\|d has less | c: 2, d: 1.667 | **NO** |  |" in text
    assert "1 of 2 claims hold in every seed (0, 1, 2)" in text and "at commit abc" in text
    assert "trial" not in text


def test_a_margin_that_was_missed_is_said(root):
    scored = outcome()["claims"]
    scored[0] |= {"margin": 4.0, "margin_reached": False}
    (root / "experiments/image/toy.claims.json").write_text(json.dumps(outcome(claims=scored)))
    assert "4 NOT reached (3.167)" in rewrite(EMPTY, root)


def test_a_trial_says_that_it_is_one(root):
    (root / "experiments/image/toy.claims.json").write_text(json.dumps(outcome(steps=2)))
    assert "A trial with 2 steps per stage" in rewrite(EMPTY, root)


def test_results(root):
    found = rows(rewrite(EMPTY, root))
    assert ["tokenizer", "`psnr_uint8`", "18.94", "297 held-out images"] in found
    scored = "500 samples, guidance 3, scorer on real images 0.9966"
    assert ["slow", "`sample_class_accuracy_digits_svc_w3`", "0.982", scored] in found
    assert not any("dead_codes" in cell for row in found for cell in row)


def test_speed_on_a_cpu_is_a_ratio(root):
    text = rewrite(EMPTY, root)
    assert "5.5 x the slowest" in text and "220" not in text


def test_speed_on_an_accelerator_is_absolute_and_names_it(root):
    path = root / "experiments/image/toy.results.json"
    write_results(path, [Result("a/samples_per_second", 220.0, {"device": "NVIDIA H100"})])
    assert ["a", "`samples_per_second`", "220", "NVIDIA H100"] in rows(rewrite(EMPTY, root))


def test_only_the_sections_change_and_twice_is_once(root):
    text = rewrite(EMPTY, root)
    assert (
        text.startswith("# x\n")
        and text.endswith("\nlast\n")
        and "\nbetween\n" in text
        and "stale words" not in text
    )
    assert rewrite(text, root) == text


def test_without_files(tmp_path):
    text = rewrite(EMPTY, tmp_path)
    assert "No claims have been measured yet." in text and "No results have been recorded yet." in text


def test_main_writes(root):
    readme = root / "README.md"
    readme.write_text(EMPTY)
    main([str(readme)])
    assert readme.read_text() == rewrite(EMPTY, root)


@pytest.mark.parametrize(
    "text", ["", EMPTY.replace("<!-- results:end -->", ""), "<!-- claims:end --><!-- claims:begin -->"]
)
def test_missing_comments(text, tmp_path):
    with pytest.raises(ValueError, match="the README needs"):
        rewrite(text, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"claims": []}', '{"claims": [{}]}'])
def test_another_format(content, root):
    (root / "experiments/image/toy.claims.json").write_text(content)
    message = r"toy\.claims\.json (cannot|holds|lacks) .* Write it again with the verb `verify` and --out"
    with pytest.raises(ValueError, match=message):
        rewrite(EMPTY, root)


def test_results_without_anything_to_show(root):
    write_results(root / "experiments/image/toy.results.json", [Result("a/other", 1.0)])
    with pytest.raises(ValueError, match="none of the metrics"):
        rewrite(EMPTY, root)


def test_markdown_table():
    assert markdown_table(("a", "b"), [("1", "x|y")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"


def test_readme_repeats_the_committed_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == rewrite(text, ROOT), "run: python -m jaxtok.train.readme README.md"
