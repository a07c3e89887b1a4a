"""Where in a user's code an exception came from."""

import json
from concurrent.futures import ThreadPoolExecutor
from traceback import format_exception

import pytest
import torch

from roundel.core.errors import ConfigError, DataError
from roundel.core.params import ParamSpec
from roundel.core.usercode import (
    load_function,
    one_line,
    own_traceback,
    user_code,
    user_line,
)


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


def test_a_traceback_begins_at_the_users_own_line_and_is_whole_without_one():
    def mine():
        return json.loads("{")

    with ThreadPoolExecutor() as threads:
        of_mine = threads.submit(mine).exception()
        of_nobody = threads.submit(json.loads, "{").exception()
    assert of_mine is not None
    assert of_nobody is not None
    head, first, *_, last = own_traceback(of_mine).splitlines()
    assert head == "Traceback (most recent call last):"
    assert first.startswith(f'  File "{__file__}", line')
    assert last.startswith("json.decoder.JSONDecodeError")
    assert own_traceback(of_nobody) == "".join(format_exception(of_nobody))


def test_a_message_of_many_lines_becomes_one():
    assert one_line(ValueError("too\n  many\nlines")) == "ValueError: too many lines"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


# ---- functions by name


@pytest.fixture
def write(workplace):
    """Return a function that writes a module into the current directory, gone after the test."""
    return (workplace / "mine.py").write_text


def test_a_function_is_found_by_its_name_in_the_current_directory(write):
    write("def top5(outputs, targets):\n    return {}\n")
    assert load_function("mine:top5", "evaluation.metrics")(1, 2) == {}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("top5", "evaluation.metrics = 'top5' is not of the form package.module:function; write"),
        ("mine:top", "the module 'mine' has no function 'top'; did you mean 'top5'?"),
        ("yours:top5", "evaluation.metrics = 'yours:top5': there is no module 'yours', neither"),
        ("os:system", "evaluation.metrics = 'os:system' belongs to Python itself; name a function"),
        ("mine:mean", "is a function of 'statistics', which 'mine' only imports; name it where it"),
        ("mine:number", "the module 'mine' has no function 'number'; choose from top5"),
    ],
)
def test_a_function_that_is_not_there_is_named_with_its_key(write, name, sentence):
    write("from statistics import mean\nnumber = 3\ndef top5(outputs, targets):\n    return {}\n")
    with pytest.raises(ConfigError) as caught_error:
        load_function(name, "evaluation.metrics")
    assert sentence in str(caught_error.value)
    assert "\n" not in str(caught_error.value)


# ---- whatever user code raises


def read_the_data(error: BaseException) -> None:
    raise error


LINE = f"{__file__}:{read_the_data.__code__.co_firstlineno + 1}"


@pytest.mark.parametrize("error", [OSError("on\nfire"), SystemExit(3), StopIteration()], ids=repr)
def test_what_user_code_raises_is_one_error_with_its_line_and_the_traceback(error):
    with pytest.raises(DataError) as caught_error, user_code("loading the data", DataError):
        read_the_data(error)
    first, empty, *details = str(caught_error.value).split("\n")
    assert first == f"loading the data failed: {one_line(error)} ({LINE})"
    assert (empty, details[0]) == ("", "Traceback (most recent call last):")
    assert f'  File "{__file__}", line {LINE.rpartition(":")[2]}, in read_the_data' in details
    assert details[-1].strip() != ""
    assert caught_error.value.__cause__ is error


def test_errors_that_already_speak_pass_as_they_are():
    error = ConfigError("set task.path")
    with pytest.raises(ConfigError) as caught_error, user_code("loading the data", DataError):
        read_the_data(error)
    assert caught_error.value is error


def test_an_interruption_is_no_error_of_the_users():
    with pytest.raises(KeyboardInterrupt), user_code("loading the data", DataError):
        read_the_data(KeyboardInterrupt())
