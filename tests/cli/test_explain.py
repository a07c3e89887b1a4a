"""What is known about a constructor, laid out for a terminal."""

from roundel.cli.docstrings import Knob
from roundel.cli.explain import entry, explanation, knob_defaults, knob_list, paragraph, table


def make(*, mu: float = 0.5) -> None:
    """Pull a little.

    Words that go on and on beyond what a narrow terminal has room for are laid out anew.

        g = g + mu * (x - x_sent) + a formula that is left alone wherever it ends

    Source:
        Someone, 2020.
    """


def test_a_paragraph_is_as_wide_as_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert paragraph("one two three four five") == "    one two three\n    four five"


def test_an_entry_is_a_name_and_paragraphs_below_it_without_empty_ones():
    assert entry("fedavg", "The mean.", "", "knobs: none") == (
        "fedavg\n    The mean.\n    knobs: none"
    )


def test_text_is_laid_out_anew_and_formulas_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    summary, words, formula, source = explanation(make)
    assert summary == "    Pull a little."
    assert max(map(len, words.splitlines())) <= 60
    assert formula == (
        "        g = g + mu * (x - x_sent) + a formula that is left alone wherever it ends"
    )
    assert source == "    Someone, 2020."


def test_knobs_are_listed_as_they_are_set():
    knob = Knob(name="mu", kind="a number", default="0.5", text="How strong.")
    silent = Knob(name="x", kind="text", default="unset", text="")
    assert knob_list([knob, silent], "strategy") == [
        "knobs",
        "    strategy.mu = 0.5  (a number)",
        "        How strong.",
        "    strategy.x = unset  (text)",
    ]
    assert knob_list([], "strategy") == []


def test_the_defaults_of_all_knobs_are_one_line():
    assert knob_defaults(make) == "knobs: mu = 0.5"
    assert knob_defaults(lambda: None) == ""


def test_a_table_has_a_line_for_each_name_and_long_texts_go_on_below_themselves(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    assert table([("a", "one"), ("bcd", "two three four"), ("e", "")], 3) == [
        "    a    one",
        "    bcd  two three four",
        "    e",
    ]
    monkeypatch.setenv("COLUMNS", "20")
    assert table([("bcd", "two three four")], 3) == ["    bcd  two three\n         four"]


def needy() -> None:
    """Pull.

    Needs:
        A rope.

    Verified:
        By hand.
    """


def test_what_a_constructor_needs_and_was_verified_against_is_labelled():
    assert explanation(needy) == ["    Pull.", "    needs: A rope.", "    verified: By hand."]
