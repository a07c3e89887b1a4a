"""`roundel predict` writes what the final model says, one row an example."""

import csv
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from roundel.cli.predict import HEAD, _examples, _said
from roundel.core.data import Examples
from roundel.core.errors import ConfigError
from roundel.core.history import read_history
from roundel.core.task import Task
from roundel.simulations import load_model, simulate
from roundel.simulations.tasks.digits import load_test
from tests.commands import TINY, call

TASK = """
import torch
from roundel.core.data import Examples
from roundel.core.metrics import regression
from roundel.core.task import Task
from torch.nn import Linear, functional

def make():
    return Task(name="line", model=lambda: Linear(1, 1), loss=functional.mse_loss,
                metrics=regression, load=load)

def load(path):
    rows = 20 if path is None else len(path.read_text().splitlines())
    inputs = torch.arange(float(rows)).unsqueeze(1) / 100
    return Examples(inputs, 2 * inputs)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished run on the digits."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert call("simulate", *TINY, "-s", "rounds=2", "--out", path).code == 0
    return path


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A finished run that fits a line, whose task has no test set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fitted_line.py").write_text(TASK)
    sets = ("-s", "task.name=fitted_line:make", "-s", "partition.kind=iid", "-s", "rounds=1")
    assert call("simulate", *TINY, *sets, "--out", "run").code == 0
    return tmp_path / "run"


def test_each_example_of_the_test_set_is_a_row_and_the_figures_are_those_of_the_run(digits):
    ended = call("predict", digits)
    assert ended.code == 0
    head, *rows = csv.reader(io.StringIO(ended.out))
    assert tuple(head) == HEAD == ("index", "prediction", "confidence", "target")
    assert [int(row[0]) for row in rows] == list(range(355))
    examples = load_test(None)
    assert [int(row[3]) for row in rows] == examples.targets.tolist()
    with torch.no_grad():
        chances = load_model(digits)(examples.inputs).softmax(dim=1)
    assert [int(row[1]) for row in rows] == chances.argmax(dim=1).tolist()
    assert float(rows[0][2]) == pytest.approx(float(chances[0].max()), abs=1e-6)
    last = read_history(digits).rounds[-1]
    assert ended.err == (
        f"accuracy {last['accuracy']:.4f}, loss {last['loss']:.4f} over 355 examples\n"
    )


def test_with_out_the_rows_are_in_the_file_and_stdout_says_how_good_it_is(digits, tmp_path):
    file = tmp_path / "predictions.csv"
    ended = call("predict", digits, "--out", file)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("accuracy ")
    assert ended.out.endswith(f" over 355 examples; predictions are in {file}\n")
    assert file.read_text() == call("predict", digits).out


def test_values_are_predicted_from_data_of_ones_own_and_have_no_confidence(line, tmp_path):
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    ended = call("predict", line, "--data", "three.txt")
    assert ended.code == 0
    rows = list(csv.reader(io.StringIO(ended.out)))[1:]
    model = load_model(line)
    expected = [model(torch.tensor([x / 100])).item() for x in (0.0, 1.0, 2.0)]
    assert [float(row[1]) for row in rows] == pytest.approx(expected, rel=1e-4)
    assert [row[2:] for row in rows] == [["", "0"], ["", "0.02"], ["", "0.04"]]
    mae = sum(abs(e - t) for e, t in zip(expected, (0.0, 0.02, 0.04), strict=True)) / 3
    assert f"mae {mae:.4f}" in ended.err


def test_a_text_is_predicted_character_by_character_with_the_mean_confidence():
    scores = torch.tensor([[[0.0, 100.0], [0.0, 0.0]]])  # sure of 1, then 0 or 1
    classes, confidences = _said(scores, torch.tensor([[1, 1]]))
    assert classes.tolist() == [[1, 0]]
    assert confidences == ["0.750000"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the task 'line' has no test set of its own; give examples with --data PATH"),
        (["--data", "empty.txt"], "there are no examples in empty.txt; give others with --data"),
        (["--data", "fitted_line.py", "--out", "no/where.csv"], "cannot write no/where.csv: No su"),
    ],
)
def test_what_cannot_be_predicted_or_written_is_one_sentence(line, tmp_path, arguments, sentence):
    (tmp_path / "empty.txt").touch()
    ended = call("predict", line, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"roundel: {sentence}")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("data", [None, Path("x")])
def test_a_task_without_any_examples_of_its_own_points_to_python(data):
    task = Task(name="made", model=nn.Identity)
    with pytest.raises(ConfigError, match=r"the task 'made' .*; predict with .*load_model in Pyth"):
        _examples(task, data, None)


def test_examples_that_the_model_does_not_take_are_one_sentence(digits, monkeypatch):
    wrong = Examples(torch.zeros(2, 5), torch.zeros(2).long())
    monkeypatch.setattr("roundel.cli.predict._examples", lambda *_: wrong)
    ended = call("predict", digits)
    assert ended.code == 2
    assert ended.err.startswith("roundel: the run's model does not take inputs of shape (5,) (")
    assert ended.err.count("\n") == 1


def test_a_run_that_has_not_finished_is_one_sentence(digits, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("config.toml", "environment.json"):
        (unfinished / name).write_bytes((digits / name).read_bytes())
    ended = call("predict", unfinished)
    assert (ended.code, ended.out) == (2, "")
    assert "the run has not finished" in ended.err
    assert ended.err.count("\n") == 1


def test_of_a_table_every_row_is_predicted_in_its_order(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,y\n" + "".join(f"{i % 2},{i % 2}\n" for i in range(40)))
    settings = ["task.name=tabular", f"task.path={table}", "rounds=2", "partition.clients=4"]
    simulate(settings=[*settings, "cohort.size=4"], out=tmp_path / "run")
    ended = call("predict", tmp_path / "run", "--data", table)
    rows = [line.split(",") for line in ended.out.splitlines()[1:]]
    assert [(row[0], row[-1]) for row in rows] == [(str(i), str(i % 2)) for i in range(40)]


def test_a_file_that_is_there_is_not_written_over(digits, tmp_path):
    (tmp_path / "mine.csv").write_text("mine")
    ended = call("predict", digits, "--out", tmp_path / "mine.csv")
    assert ended.code == 2
    assert "mine.csv is there already; choose another file with --out" in ended.err
    assert (tmp_path / "mine.csv").read_text() == "mine"
