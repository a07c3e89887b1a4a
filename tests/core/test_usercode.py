"""Where in a user's code an exception came from."""

import json

import pytest
import torch

from roundel.core.params import ParamSpec
from roundel.core.usercode import one_line, user_line


def caught(work) -> Exception:
    with pytest.raises(Exception) as caught_error:  # noqa: PT011 - any error will do
        work()
    return caught_error.value


def test_the_innermost_line_of_the_users_own_is_named():
    def parse():
        return json.loads("{")  # the library raises, below this line

    line = parse.__code__.co_firstlineno + 1
    assert user_line(caught(parse)) == f"{__file__}:{line}"


def test_roundels_own_frames_are_not_the_users():
    def too_short():
        return ParamSpec(()).views(torch.zeros(3))

    line = too_short.__code__.co_firstlineno + 1
    assert user_line(caught(too_short)) == f"{__file__}:{line}"


def test_a_message_of_many_lines_becomes_one():
    assert one_line(ValueError("too\n  many\nlines")) == "ValueError: too many lines"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
