"""Did you mean?"""

import doctest

import pytest

from roundel.core import suggest as module
from roundel.core.suggest import suggest


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("adm", "did you mean 'adam'?"),
        ("epoch", "did you mean 'epochs'?"),
        ("zzz", "choose from sgd, adam, epochs"),
        ("", "choose from sgd, adam, epochs"),
    ],
)
def test_the_closest_name_is_suggested_or_all_are_listed(word: str, hint: str) -> None:
    assert suggest(word, iter(["sgd", "adam", "epochs"])) == hint


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=2)
