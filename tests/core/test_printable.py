"""What the other side says moves no cursor and floods no log."""

import pytest

from roundel.core.printable import name_defect, printable


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


def test_names_that_records_may_hold_are_no_defect():
    assert name_defect([]) == name_defect(["loss", "na\u00efve", "x" * 256, "a b"]) == ""


@pytest.mark.parametrize(
    ("name", "shown"), [("a\nb", "'a\\nb'"), ("x" * 257, "'" + "x" * 99), ("\u202e", "'\\u202e'")]
)
def test_the_first_name_that_they_may_not_hold_is_shown_as_far_as_there_is_room(name, shown):
    said = f"{shown} is no name of printable characters, 256 at most"
    assert name_defect(["loss", name, "y" * 300]) == said
