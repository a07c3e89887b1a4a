"""What the other side says moves no cursor and floods no log."""

import pytest

from roundel.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, na\u00efve", "plain, na\u00efve"),
        ("\x1b[2Jgone\nround 9", "\ufffd[2Jgone\ufffdround 9"),
        ("\u202eleft\x00", "\ufffdleft\ufffd"),
        ("half \ud800", "half \ufffd"),
    ],
)
def test_what_moves_a_cursor_is_replaced(text, shown):
    assert printable(text) == shown


def test_layout_is_let_through_where_there_may_be_lines():
    assert printable("a\n\tb\r", layout="\n\t") == "a\n\tb\ufffd"


def test_long_text_is_cut_off():
    assert printable("abcd", 3) == "abc"
    assert len(printable("x" * 5000)) == 4096
