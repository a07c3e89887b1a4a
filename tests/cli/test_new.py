"""`roundel new` makes a project that runs and passes its own test."""

from roundel.core.history import read_history
from tests.commands import call, run

pytest_plugins = ["pytester"]


def test_the_project_runs_as_it_is_and_passes_its_own_test(tmp_path, monkeypatch, pytester):
    project = tmp_path / "my waves"
    made = call("new", project)
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith(
        f"made {project} with README.md, experiment.toml, test_waves.py, waves.py; go on with\n"
    )
    ended = run("simulate", "experiment.toml", "-s", "rounds=1", "--out", "first", cwd=project)
    assert (ended.code, ended.err) == (0, "")
    experiment = read_history(project / "first").experiment
    assert (experiment.name, experiment.task.name) == ("my-waves", "waves:make")
    monkeypatch.chdir(project)
    pytester.inline_run("--quiet").assertoutcome(passed=5)


def test_the_project_is_made_in_the_current_directory_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("new", ".").code == 0
    assert f'name = "{tmp_path.name}"' in (tmp_path / "experiment.toml").read_text()
    assert (tmp_path / "README.md").read_text().startswith(f"# {tmp_path.name}\n")


def test_a_directory_that_holds_something_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        ended = call("new", taken)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == (f"roundel: {taken} is not an empty directory; choose another one\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_where_nothing_can_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    ended = call("new", tmp_path / "file" / "project")
    assert ended.code == 2
    assert ended.err.startswith(f"roundel: cannot write {tmp_path / 'file' / 'project'}: Not a dir")
    assert ended.err.count("\n") == 1
