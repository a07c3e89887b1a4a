"""A function's docstring and signature, taken apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from roundel.cli.docstrings import Knob, documented, in_words, knobs


def fly(  # noqa: D417 - silence about an argument is the case
    *,
    wings: int = 2,
    speed: float | None = None,
    name: str,
    kind: Literal["glide", "soar"] = "glide",
) -> None:
    """Fly as ``v = v + a``,
    without landing.

    A paragraph.

        v = v + a

    Args:
        wings: How many
            there are: ``2`` mostly.
        speed: In m/s.

    Raises:
        ValueError: It has none.

    Needs:
        Air, and
        ``v > 0``.

    Verified:
        By birds.

    Source:
        O. Lilienthal, "Birdflight",
        1889.
    """  # noqa: D205 - a long summary is the case


def test_the_summary_the_body_the_arguments_and_the_source_are_told_apart():
    said = documented(fly)
    assert said.summary == "Fly as `v = v + a`, without landing."
    assert said.body == "A paragraph.\n\n    v = v + a"
    assert said.args == {"wings": "How many there are: `2` mostly.", "speed": "In m/s."}
    assert said.needs == "Air, and `v > 0`."
    assert said.verified == "By birds."
    assert said.source == 'O. Lilienthal, "Birdflight", 1889.'


def test_knobs_have_their_kind_their_default_and_what_is_said_about_them():
    assert knobs(fly) == [
        Knob(
            name="wings",
            kind="a whole number",
            default="2",
            text="How many there are: `2` mostly.",
        ),
        Knob(name="speed", kind="a number", default="unset", text="In m/s."),
        Knob(name="name", kind="text", default="none, it must be set", text=""),
        Knob(name="kind", kind='"glide" or "soar"', default='"glide"', text=""),
    ]


def test_a_function_that_says_nothing_has_nothing_to_tell():
    def silent(x, *rest, **more): ...

    said = documented(silent)
    assert (said.summary, said.body, said.args, said.source) == ("", "", {}, "")
    assert (said.needs, said.verified) == ("", "")
    assert knobs(silent) == [
        Knob(name="x", kind="anything", default="none, it must be set", text="")
    ]


def test_a_default_that_no_file_can_write_is_shown_as_python_does():
    def odd(*, where=Path("a")): ...

    assert [knob.default for knob in knobs(odd)] == ["a"]


def test_annotations_that_name_what_is_not_there_are_no_obstacle():
    def odd(*, bird: "Absent" = 1): ...  # noqa: F821 # pyright: ignore[reportUndefinedVariable]

    assert [knob.kind for knob in knobs(odd)] == ["anything"]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "true or false"),
        (Path | None, "a path"),
        (int | Literal["full"], 'a whole number or "full"'),
        (Annotated[float, "positive"], "a number"),
        (list[str], "a list, each text"),
        (Sequence[int] | None, "a list, each a whole number"),
        (Any, "anything"),
        (dict, "dict"),
    ],
)
def test_what_a_knob_may_be_is_said_in_words(hint, words):
    assert in_words(hint) == words
