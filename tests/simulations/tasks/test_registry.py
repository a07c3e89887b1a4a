"""A task is found by its name, or said in one sentence why not."""

import sys
from textwrap import dedent

import pytest

from roundel.core.config import TaskConfig
from roundel.core.errors import ConfigError, DataError
from roundel.core.task import Task
from roundel.simulations.tasks.registry import TASKS, make_task

GOOD = """\
from torch import nn
from roundel.core.task import Task

def task(model="small"):
    return Task(name=f"birds-{model}", model=lambda: nn.Linear(2, 2))

def plain():
    return Task(name="plain", model=lambda: nn.Linear(2, 2))

number = 3
"""


@pytest.fixture
def write(workplace):
    """Return a function that writes a module into the current directory, gone after the test."""

    def write_module(source, name="birds.py"):
        file = workplace / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(source), encoding="utf-8")
        return file

    return write_module


def make(name, model=None):
    return make_task(TaskConfig(name=name, model=model))


def complaint(name, model=None):
    with pytest.raises(ConfigError) as caught:
        make(name, model)
    assert "\n" not in str(caught.value)
    return caught.value


NEED_A_PATH = {"images", "tabular"}  # their shape depends on the data


@pytest.mark.parametrize("name", [name for name in TASKS if name not in NEED_A_PATH])
def test_a_built_in_task_is_made_by_its_name(name):
    task = make(name)
    assert task.name == name
    assert task.load is not None or task.population is not None


@pytest.mark.parametrize("name", sorted(NEED_A_PATH))
def test_a_task_whose_shape_depends_on_its_data_asks_for_the_path(name):
    assert str(complaint(name)).startswith(f"{name} needs task.path, ")


@pytest.mark.parametrize("name", [name for name in TASKS if name not in NEED_A_PATH])
def test_what_is_settled_makes_the_same_task_again(name):
    task = make(name)
    again = make_task(TaskConfig.model_validate({**task.knobs, "name": name}))
    assert again.knobs == task.knobs
    assert again.spec(again.new_model(0)) == task.spec(task.new_model(0))


def test_the_model_is_handed_on():
    assert make("digits", "cnn").model is not make("digits").model


def test_an_unknown_name_is_an_error_with_a_suggestion():
    assert str(complaint("digit")) == (
        "task.name = 'digit' is neither a built-in task nor package.module:function; "
        "did you mean 'digits'?"
    )


def test_a_function_in_the_current_directory_is_called(write):
    write(GOOD)
    assert make("birds:task").name == "birds-small"
    assert make("birds:task", "large").name == "birds-large"


def test_the_current_directory_is_put_in_front_once_as_python_m_does(write, tmp_path):
    write(GOOD)
    make("birds:task")
    make("birds:task")
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_a_function_in_a_package_is_called(write):
    write(GOOD, "mytasks/birds.py")
    assert make("mytasks.birds:plain").name == "plain"


@pytest.mark.parametrize("name", ["birds:", ":task", "birds.py/x:task", "a:b:c", ".birds:task"])
def test_a_malformed_name_is_an_error_that_shows_the_form(name):
    assert "is not of the form package.module:function" in str(complaint(name))


def test_a_module_that_does_not_exist_is_an_error_that_says_where_it_was_looked_for(
    write, tmp_path
):
    assert f"there is no module 'brids', neither in {tmp_path}" in str(complaint("brids:task"))
    write(GOOD, "mytasks/birds.py")
    assert "there is no module 'mytasks.brids'" in str(complaint("mytasks.brids:task"))


def test_a_function_that_does_not_exist_is_an_error_with_a_suggestion(write):
    write(GOOD)
    assert "'birds' has no function 'taks'; did you mean 'task'?" in str(complaint("birds:taks"))
    assert "has no function 'number'; choose from task, plain" in str(complaint("birds:number"))
    write("", "bare.py")
    assert "has no function 'task'; define it there" in str(complaint("bare:task"))


def test_an_exception_while_importing_is_told_with_the_users_file_and_line(write):
    file = write("x = 1\n\ny = 1 / 0\n")
    error = complaint("birds:task")
    assert str(error) == (
        "task.name = 'birds:task': importing 'birds' failed: "
        f"ZeroDivisionError: division by zero ({file}:3)"
    )
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_the_line_is_the_users_even_if_a_library_raised(write):
    file = write("import json\n\nsettings = json.loads('{')\n")
    assert str(complaint("birds:task")).endswith(f"({file}:3)")


def test_a_missing_import_of_the_users_module_is_not_taken_for_a_missing_module(write):
    file = write("\nimport no_such_library\n")
    sentence = str(complaint("birds:task"))
    assert "ModuleNotFoundError: No module named 'no_such_library'" in sentence
    assert sentence.endswith(f"({file}:2)")


def test_a_syntax_error_is_told_with_its_line(write):
    file = write("x = 1\ndef task(:\n    pass\n")
    assert str(complaint("birds:task")).endswith(f"({file}:2)")


def test_a_module_that_exits_does_not_end_the_program(write):
    file = write("import sys\nsys.exit()\n")
    assert str(complaint("birds:task")).endswith(f"failed: SystemExit ({file}:2)")


def test_an_exception_in_the_function_is_told_with_its_line(write):
    file = write("def task():\n    return {}['classes']\n")
    error = complaint("birds:task")
    assert str(error) == f"task.name = 'birds:task' failed: KeyError: 'classes' ({file}:2)"
    assert isinstance(error.__cause__, KeyError)


def test_an_error_that_already_speaks_is_left_as_it_is(write):
    write(
        """\
        from roundel.core.errors import DataError

        def task():
            raise DataError("no birds in summer; wait")
        """
    )
    with pytest.raises(DataError, match=r"^no birds in summer; wait$"):
        make("birds:task")


def test_a_model_for_a_function_that_takes_none_is_an_error(write):
    write(GOOD)
    assert str(complaint("birds:plain", "large")) == (
        "task.model is not a knob of birds:plain; it has none"
    )


def test_a_function_that_needs_a_knob_is_an_error_without_it(write):
    write("def task(folder):\n    pass\n")
    assert str(complaint("birds:task")) == (
        "birds:task needs task.folder, which has no default; set it"
    )


KNOBS = """\
from pathlib import Path
from torch import nn
from roundel.core.task import Task

def task(
    *,
    path: Path | None,
    sizes: list[int] = [4],
    rate: float = 0.5,
    model: str = "small",
    classes: list[str] | None = None,
):
    found = {"classes": [str(path)], "rate": 2 * rate}
    return Task(name="birds", model=lambda: nn.Linear(2, sizes[0]), knobs=found)
"""


def made(**about):
    return make_task(TaskConfig.model_validate({"name": "birds:task", **about}))


def test_the_knobs_beside_the_name_reach_the_function(write):
    write(KNOBS)
    assert made(sizes=[7]).new_model(0).out_features == 7
    assert made().new_model(0).out_features == 4


def test_the_path_reaches_a_function_that_has_such_a_parameter(write):
    write(KNOBS)
    assert made(path="some/where").knobs["classes"] == ["some/where"]
    assert made().knobs["classes"] == ["None"]
    write(GOOD, "others.py")
    assert make_task(TaskConfig.model_validate({"name": "others:plain", "path": "x"})).knobs == {}


def test_the_task_says_every_knob_and_what_it_found_out_and_not_the_path(write):
    write(KNOBS)
    assert made(rate=1).knobs == {
        "sizes": [4],
        "rate": 2.0,  # what the function says counts
        "model": "small",
        "classes": ["None"],
    }


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"size": [4]}, "task.size is not a knob of birds:task; did you mean 'sizes'?"),
        ({"sizes": "big"}, "task.sizes = 'big' does not fit: Input should be a valid list"),
    ],
)
def test_a_knob_that_does_not_fit_is_an_error_with_the_remedy(write, about, sentence):
    write(KNOBS)
    with pytest.raises(ConfigError) as caught:
        made(**about)
    assert str(caught.value) == sentence


def test_a_task_that_says_a_knob_which_its_function_does_not_take_is_an_error(write):
    write(
        "from torch import nn\n"
        "from roundel.core.task import Task\n"
        "def task():\n"
        "    return Task(name='b', model=lambda: nn.Linear(1, 1), knobs={'depth': 1})\n"
    )
    assert str(complaint("birds:task")) == (
        "task.name = 'birds:task' returned a task with the knob 'depth', which its function does "
        "not take; give it a parameter of that name"
    )


def test_something_else_than_a_task_is_an_error(write):
    write("def task():\n    return 3\n")
    assert str(complaint("birds:task")) == (
        "task.name = 'birds:task' returned int; it must return a roundel.core.task.Task"
    )
    assert Task.__module__ == "roundel.core.task"
