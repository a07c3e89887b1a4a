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
    parents: list[tuple[str, str]] = []
    above = ["RoundelError"]
    for indent, name in re.findall(
        r"^( {4}[ │]*)[├└]── (\w+) {2,}\S", errors.__doc__ or "", re.MULTILINE
    ):
        above = [*above[: len(indent) // 4], name]
        parents.append((name, above[-2]))
    kinds = every_error()[1:]
    assert sorted(parents) == sorted((k.__name__, k.__mro__[1].__name__) for k in kinds)


@pytest.mark.parametrize("kind", every_error())
def test_every_error_says_what_it_is_for(kind: type[RoundelError]) -> None:
    assert kind.__doc__


@pytest.mark.parametrize("kind", every_error())
def test_misuse_exits_with_2_and_a_failed_run_with_1(kind: type[RoundelError]) -> None:
    assert kind.exit_code == (1 if issubclass(kind, RunFailed) else 2)
