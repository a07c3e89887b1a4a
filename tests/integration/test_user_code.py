"""Code of the user's own on the command line: it works, or says once where it does not."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from roundel.core.history import read_history
from roundel.core.runfiles import is_run
from tests.commands import Ended, call, settings

MINE = """\
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from roundel.core.training import TrainingResult
from roundel.simulations.tasks.digits import digits


def top3(outputs, targets):
    best = outputs.topk(3, dim=1).indices
    return {"top3": (best == targets.unsqueeze(1)).any(dim=1).sum()}


def bad_on_the_test_set(outputs, targets):
    if len(targets) > 300:
        raise ValueError("too many for me")
    return {}


def bad_on_clients(outputs, targets):
    if len(targets) < 300:
        raise ValueError("too few for me")
    return {}


def load(path):
    raise OSError("the share is not mounted")


def unreadable():
    return replace(digits(), load=load)


def no_test_set():
    return replace(digits(), load_test=None)


def train(model, examples, context):
    optimizer = torch.optim.SGD(model.parameters(), lr=context.config.client.lr)
    turns = context.state.get("turns", torch.zeros(())) + 1
    if Path("trouble").exists() and context.client_id < int(Path("trouble").read_text()):
        raise KeyError("momentum")
    for _ in range(2):
        optimizer.zero_grad()
        inputs = examples.inputs + 0.1 * torch.randn_like(examples.inputs) / turns
        loss = cross_entropy(model(inputs), examples.targets)
        loss.backward()
        optimizer.step()
    return TrainingResult(steps=2, loss=loss.item(), state={"turns": turns})


def own_training():
    return replace(digits(), train=train)
"""
SETS = settings(
    rounds=3,
    partition__clients=4,
    partition__kind="iid",
    cohort__size=4,
    client__steps=1,
    evaluation__clients=0,
    engine__executor="loop",
)


@pytest.fixture
def here(workplace) -> Path:
    """A directory with a module of the user's, gone after the test."""
    (workplace / "mine.py").write_text(MINE)
    return workplace


def simulate(*sets: str, out: str = "run") -> Ended:
    options = [part for setting in sets for part in ("-s", setting)]
    return call("simulate", *SETS, *options, "--out", out)


def rounds(out: str = "run") -> Sequence[Mapping[str, Any]]:
    return read_history(Path(out)).rounds


def place_of(text: str) -> str:
    return f"{Path.cwd() / 'mine.py'}:{MINE[: MINE.index(text)].count(chr(10)) + 1}"


def told_once(ended: Ended, start: str, text: str) -> None:
    """Check that stderr begins so, and shows the line of the user's code and a traceback once."""
    file, _, line = place_of(text).rpartition(":")
    assert ended.err.startswith(start), ended.err
    assert ended.err.count(f"{file}:{line}") == 1
    assert ended.err.count("Traceback (most recent call last):") == 1
    assert ended.err.count(f'File "{file}", line {line}, in ') == 1


# ---- metrics


def test_a_metric_of_ones_own_is_in_every_line_and_in_the_clients_figures(here):
    ended = simulate('evaluation.metrics=["mine:top3"]', "evaluation.clients=4")
    assert (ended.code, ended.err) == (0, "")
    for line in rounds():
        assert line["accuracy"] <= line["top3"] <= 1
        assert f"top3 {line['top3']:.4f}" in ended.out
    assert rounds()[-1]["clients"]["top3"]["p50"] > 0


def test_a_metric_that_fails_on_the_test_set_ends_the_run_which_goes_on_once_it_is_mended(here):
    ended = simulate('evaluation.metrics=["mine:bad_on_the_test_set"]', "evaluation.every=2")
    assert ended.code == 1
    told_once(
        ended,
        "roundel: evaluating round 2 on the global test set failed: ValueError: too many for me (",
        'raise ValueError("too many for me")',
    )
    assert [line["round"] for line in rounds()] == [1]
    (here / "mine.py").write_text(MINE.replace("> 300", "> 3000"))
    del sys.modules["mine"]
    assert call("resume", "run").code == 0
    assert simulate(out="whole").code == 0
    assert read_history(Path("run")).hashes == read_history(Path("whole")).hashes


def test_a_metric_that_fails_on_clients_is_told_once_and_the_run_goes_on(here):
    ended = simulate(
        'evaluation.metrics=["mine:bad_on_clients"]',
        "evaluation.clients=4",
        "evaluation.clients_every=1",
    )
    assert ended.code == 0
    (line,) = ended.err.splitlines()
    place = place_of('raise ValueError("too few for me")')
    assert line == (
        f"round 1: client 0 failed: ValueError: too few for me at {place} "
        "(traceback in the run directory, failures/)"
    )
    assert [each["clients"]["failures"] for each in rounds()] == [4, 4, 4]
    assert len(list(Path("run/failures").iterdir())) == 12


def test_a_metric_that_fails_on_clients_leaves_a_task_without_a_test_set_without_figures(here):
    ended = simulate(
        "task.name=mine:no_test_set",
        'evaluation.metrics=["mine:bad_on_clients"]',
        "evaluation.clients=4",
    )
    assert ended.code == 0
    assert [line["loss"] for line in rounds()] == [None] * 3


def test_a_metric_that_does_not_exist_is_one_sentence_before_anything_is_written(here):
    ended = simulate('evaluation.metrics=["mine:top33"]')
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "roundel: evaluation.metrics = 'mine:top33': the module 'mine' has no function 'top33'; "
        "did you mean 'top3'?\n"
    )
    assert not Path("run").exists()


# ---- data


@pytest.mark.parametrize("deployed", [(), ("--as-deployed",)], ids=["simulated", "as deployed"])
def test_data_that_cannot_be_loaded_is_told_once_before_round_1(here, deployed):
    ended = call("simulate", *SETS, "-s", "task.name=mine:unreadable", "--out", "run", *deployed)
    assert (ended.code, ended.out) == (2, "")
    told_once(
        ended,
        "roundel: loading the data of the task 'digits' failed: OSError: the share is not ",
        'raise OSError("the share is not mounted")',
    )
    assert {path.name for path in here.iterdir()} <= {"mine.py", "__pycache__"}


# ---- training


def test_training_of_ones_own_takes_the_place_of_the_learning_loop(here):
    ended = simulate("task.name=mine:own_training")
    assert (ended.code, ended.err) == (0, "")
    assert [row["num_steps"] for row in read_history(Path("run")).clients()] == [2] * 12
    assert simulate("task.name=mine:own_training", out="again").code == 0
    assert read_history(Path("run")).hashes == read_history(Path("again")).hashes


def test_training_of_ones_own_that_fails_at_some_clients_is_told_once_and_goes_on(here):
    (here / "trouble").write_text("2")
    ended = simulate("task.name=mine:own_training")
    assert ended.code == 0
    place = place_of('raise KeyError("momentum")')
    assert ended.err == (
        f"round 1: client 0 failed: KeyError: 'momentum' at {place} "
        "(traceback in the run directory, failures/)\n"
    )
    assert [line["completed"] for line in rounds()] == [2, 2, 2]
    assert len(list(Path("run/failures").iterdir())) == 6


def test_training_of_ones_own_that_fails_everywhere_ends_the_run_and_is_told_once(here):
    (here / "trouble").write_text("99")
    ended = simulate("task.name=mine:own_training")
    assert ended.code == 1
    told_once(
        ended,
        "roundel: round 1 has 0 accepted of 4 updates and needs 1: every client answered or was "
        "lost; client 0: KeyError: 'momentum' (",
        'raise KeyError("momentum")',
    )


@pytest.mark.parametrize("strategy", ["scaffold", "fedprox"])
def test_training_of_ones_own_is_refused_where_the_strategy_changes_it(here, strategy):
    ended = simulate("task.name=mine:own_training", f"strategy.name={strategy}")
    assert (ended.code, ended.out) == (2, "")
    assert "changes local training, and the task 'digits' brings a training function" in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("run").exists()


# ---- parameters to start from


def test_a_run_goes_on_from_the_model_of_another_one(here):
    assert simulate("rounds=1", out="first").code == 0
    initial, other = "task.initial=first", "task.initial=first/model.safetensors"
    assert simulate("rounds=1", initial, "seeds.model=9").code == 0
    assert simulate("rounds=1", other, out="by-file").code == 0
    assert read_history(Path("run")).hashes == read_history(Path("by-file")).hashes
    assert read_history(Path("run")).hashes != read_history(Path("first")).hashes
    still = ("rounds=1", initial, "client.lr=1e-45")  # nothing moves
    assert simulate(*still, out="still").code == 0
    models = [load_file(Path(name) / "model.safetensors") for name in ("first", "still")]
    assert all(models[0][name].equal(models[1][name]) for name in models[0])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("task.initial=nowhere", "there is no model nowhere; check the path"),
        ("task.initial=mine.py", "mine.py cannot be read ("),
        ("task.initial=.", "there is no model model.safetensors; the run has not finished"),
    ],
)
def test_parameters_that_are_not_there_are_one_sentence_and_nothing_is_written(
    here, setting, sentence
):
    ended = simulate(setting)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"roundel: {sentence}")
    assert ended.err.count("\n") == 1
    assert not Path("run").exists()


# ---- stopping and failing on purpose


def test_a_run_that_stops_early_says_why(here):
    ended = simulate("rounds=50", "stop.target=0.2", "evaluation.clients=4")
    assert (ended.code, ended.err) == (0, "")
    last = rounds()[-1]
    assert len(rounds()) < 50
    assert last["stopped"] == f"accuracy = {last['accuracy']:g} reached the target of 0.2"
    assert f"stopped early: {last['stopped']}" in ended.out.splitlines()
    assert {"clients", "confusion"} <= set(last)
    assert len(last["confusion"]) == 10


def test_waiting_for_a_figure_that_does_not_exist_is_one_sentence(here):
    ended = simulate("stop.metric=acuracy", "stop.patience=2")
    assert ended.code == 2
    assert ended.err == (
        "roundel: stop.metric = 'acuracy' is not among the figures of a round; choose from loss, "
        "accuracy, precision, recall, train_loss, or one inside clients, such as "
        "clients.loss.p90\n"
    )


def test_waiting_for_a_figure_that_comes_too_late_is_refused_before_anything_is_written(here):
    ended = simulate("stop.metric=clients.loss.p90", "stop.target=1", "evaluation.clients=4")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("roundel: stop.metric = 'clients.loss.p90' is measured in the last")
    assert not Path("run").exists()


def test_a_run_of_which_all_clients_drop_out_ends_with_one_sentence(here):
    ended = simulate("faults.drop=1")
    assert ended.code == 1
    assert ended.err == (
        "roundel: round 1 has 0 accepted of 4 updates and needs 1: every client answered or was "
        "lost; client 0: it dropped out on purpose (faults.drop)\n"
    )
    assert is_run(Path("run"))
    lines = Path("run/clients.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["lost"] * 4
