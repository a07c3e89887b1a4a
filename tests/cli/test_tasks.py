"""`roundel tasks` lists the tasks and explains each."""

import pytest

from roundel.simulations.tasks.registry import TASKS
from tests.commands import call


def test_the_list_has_every_task_with_its_size_licence_source_and_models():
    ended = call("tasks")
    assert (ended.code, ended.err) == (0, "")
    names = [line for line in ended.out.splitlines() if line and not line.startswith((" ", "`"))]
    assert names == list(TASKS)
    text = " ".join(ended.out.split())
    assert "models: mlp (4,810 parameters), mlp-norm (4,938 parameters), cnn (9,930" in text
    for about in TASKS.values():
        for fact in (about.size, about.licence, about.source):
            assert " ".join(fact.split()) in text


@pytest.mark.parametrize("name", TASKS)
def test_each_is_explained_with_its_licence_its_source_and_what_it_reaches(name):
    ended = call("tasks", name)
    assert (ended.code, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    about = TASKS[name]
    for fact in (about.licence, about.source, about.figure, about.size):
        assert " ".join(fact.split()) in text
    assert f"roundel simulate -s task.name={name}" in text


def test_a_task_of_ones_own_is_explained_from_its_docstring(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "explained_birds.py").write_text(
        "def make(*, wings: int = 2, path=None):\n"
        '    """Return the task of telling birds apart.\n\n'
        "    Args:\n"
        "        wings: How many\n"
        '            there are.\n    """\n'
    )
    ended = call("tasks", "explained_birds:make")
    assert ended.code == 0
    assert "    Return the task of telling birds apart.\n" in ended.out
    assert "    task.wings = 2  (a whole number)\n        How many there are.\n" in ended.out
    assert "task.path =" not in ended.out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digit", "there is no task 'digit', and it is not package.module:function either; "),
        ("absent_module:make", "roundel tasks = 'absent_module:make': there is no module"),
    ],
)
def test_an_unknown_task_is_one_sentence_and_code_2(name, sentence):
    ended = call("tasks", name)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"roundel: {sentence}")
    assert ended.err.count("\n") == 1
