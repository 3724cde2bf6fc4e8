import re

import pytest

from jaxtok.evaluate.__main__ import main
from jaxtok.evaluate.comparison import Compared, compare, comparison_table
from jaxtok.evaluate.protocol import Result, write_results


def results(scale=1.0, seed=0, network="digits"):
    return [
        Result("tokenizer/rfd_digits", 2.0 * scale, {"images": 297, "network": network}),
        Result("prior/gfd_digits", 4.0 * scale, {"images": 500, "network": network, "seed": seed}),
        Result("prior/precision", 0.0 + (scale - 1), {"images": 500, "seed": seed}),
    ]


def test_differences_of_like_results():
    found = compare(results(), [*results(1.5), Result("prior/recall", 1.0)])
    assert found.rows[0] == Compared("tokenizer/rfd_digits", 2.0, 3.0)
    assert found.rows[0].difference == 1 and found.rows[0].percent == 50
    assert found.only_b == ("prior/recall",) and not found.only_a and not found.unlike
    assert comparison_table(found, "old", "new").splitlines() == [
        "metric                old  new  difference      %",
        "tokenizer/rfd_digits    2    3          +1  +50.0",
        "prior/gfd_digits        4    6          +2  +50.0",
        "prior/precision         0  0.5        +0.5      -",
        "only in new: prior/recall",
    ]


def test_unlike_protocols_raise_with_every_difference():
    with pytest.raises(ValueError) as error:
        compare(results(), results(seed=1, network="inception"))
    message = str(error.value)
    assert "network: 'digits' against 'inception', in tokenizer/rfd_digits, prior/gfd_digits" in message
    assert "seed: 0 against 1, in prior/gfd_digits, prior/precision" in message and "--varying" in message
    assert len(compare(results(), results(seed=1), varying=("seed",)).rows) == 3
    found = compare(results(), results(seed=1), alike_only=True)
    assert [row.name for row in found.rows] == ["tokenizer/rfd_digits"]
    assert found.unlike == (("prior/gfd_digits", "seed"), ("prior/precision", "seed"))
    assert "measured unlike, left out: prior/precision (seed)" in comparison_table(found)


def test_nothing_in_common_and_names_twice_raise():
    with pytest.raises(ValueError, match="share no metric: one has tokenizer/rfd_digits"):
        compare(results(), [Result("x", 1.0)])
    with pytest.raises(ValueError, match="'tokenizer/rfd_digits' is twice"):
        compare([*results(), results()[0]], results())


def test_the_command(tmp_path, capsys):
    for name, found in (("a", results()), ("b", results(2.0, seed=3))):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", found)
    folders = [str(tmp_path / name) for name in "ab"]
    main(["compare", *folders, "--varying", "seed"])
    table = capsys.readouterr().out
    assert re.search(r"metric +a +b +difference", table)
    assert re.search(r"gfd_digits +4 +8 +\+4 +\+100\.0", table)
    main(["compare", folders[0], f"{folders[1]}/results.json", "--only", "*rfd*"])
    assert len(capsys.readouterr().out.splitlines()) == 2
    for words, message in (
        (folders, "seed: 0 against 3"),
        ([folders[0], str(tmp_path / "c.json")], "c.json"),
        ([*folders, "--only", "nothing"], "share no metric"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *words])
        assert stopped.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error
