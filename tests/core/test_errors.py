"""The tree of errors."""

import re

import pytest

from roundel.core import errors
from roundel.core.errors import RoundelError, RunFailed


def every_error() -> list[type[RoundelError]]:
    found = [RoundelError]
    for kind in found:  # grows while it is walked
        found += [k for k in kind.__subclasses__() if k.__module__ == errors.__name__]
    return found


def test_the_tree_in_the_documentation_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^ {4}[├└]── (\w+) {2,}\w", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [kind.__name__ for kind in RoundelError.__subclasses__()]
    assert "\n    RoundelError\n" in (errors.__doc__ or "")
    assert len(every_error()) == 1 + len(drawn)


@pytest.mark.parametrize("kind", every_error())
def test_every_error_says_what_it_is_for(kind: type[RoundelError]) -> None:
    assert kind.__doc__


@pytest.mark.parametrize("kind", every_error())
def test_misuse_exits_with_2_and_a_failed_run_with_1(kind: type[RoundelError]) -> None:
    assert kind.exit_code == (1 if kind is RunFailed else 2)
