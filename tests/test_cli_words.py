"""Words of the command line, before and after everything else."""

import os

import pytest

from jaxtok.cli import _at_home, _printable


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--workdir=~/x", f"--workdir={os.path.expanduser('~')}/x"),
        ("--workdir=~", f"--workdir={os.path.expanduser('~')}"),
        ("--workdir=x~/y", "--workdir=x~/y"),
        ("--workdir=~other/x", "--workdir=~other/x"),
        ("~/x", "~/x"),  # the shell's own
        ("--flag", "--flag"),
    ],
)
def test_a_tilde_behind_an_equals_sign_is_the_home_directory(word, expected):
    assert _at_home(word) == expected


def test_errors_move_no_cursor_and_end():
    assert _printable("a\x1b[31mred\x07\nb") == "a\\x1b[31mred\\x07\nb"
    assert _printable("x" * 5000).endswith("... (1000 more characters)")
