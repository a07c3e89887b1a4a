"""What a node brings that has the examples of one client, and what it refuses to bring."""

import re
from pathlib import Path

import numpy as np
import pytest

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.errors import ConfigError, DataError
from roundel.core.fingerprint import misfit
from roundel.simulations.own_data import check_brings, own_share
from roundel.simulations.prepare import prepare
from roundel.simulations.registration import registration

SETTINGS = (
    "task.name=tabular",
    'task.features=["x0", "x1"]',
    "task.classes=[0, 1, 2]",
    "task.standardize=false",
    "partition.kind=own",
    "partition.clients=3",
    "cohort.size=3",
)


def experiment(*settings: str) -> Experiment:
    """As a coordinator resolves it that has no examples."""
    return prepare(load_experiment(None, [*SETTINGS, *settings])).plan.experiment


def saved(path: Path, *, rows: int = 10, features: int = 2, classes: int = 3) -> Path:
    inputs = np.arange(rows * features, dtype=np.float64).reshape(rows, features)
    np.savez(path, x=inputs, y=np.arange(rows) % classes)
    return path


def test_a_node_trains_on_all_examples_of_its_path_but_those_it_holds_out(tmp_path):
    hosted = own_share(experiment("partition.test=0.2"), saved(tmp_path / "mine.npz"))
    assert hosted.own_data
    assert (list(hosted.client_ids), hosted.population.size) == ([], 3)
    data = hosted.population.client(1)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 0, 2)
    first = sorted([*data.train.inputs[:, 0].tolist(), *data.test.inputs[:, 0].tolist()])
    assert first == [2.0 * row for row in range(10)]  # task.test = 0.2 keeps none of them back


def test_it_agrees_with_a_coordinator_that_has_no_examples(tmp_path):
    coordinator = prepare(experiment())
    hosted = own_share(coordinator.plan.experiment, saved(tmp_path / "mine.npz"))
    assert misfit("edge", hosted.fingerprint, registration(coordinator)) == ""


def test_it_agrees_whatever_it_holds(tmp_path):
    shares = [
        own_share(experiment(), saved(tmp_path / f"{rows}.npz", rows=rows)) for rows in (4, 9)
    ]
    assert shares[0].fingerprint == shares[1].fingerprint


def test_the_coordinators_path_is_not_looked_at(tmp_path):
    there = experiment(f"task.path={saved(tmp_path / 'theirs.npz', rows=30)}")
    (tmp_path / "theirs.npz").unlink()
    hosted = own_share(there, saved(tmp_path / "mine.npz", rows=7))
    assert len(hosted.population.client(0).train) == 7


def test_parameters_to_start_from_need_not_be_at_the_node(tmp_path):
    run, path = experiment(), saved(tmp_path / "mine.npz")
    task = run.task.model_copy(update={"initial": tmp_path / "away.safetensors"})
    hosted = own_share(run.model_copy(update={"task": task}), path)
    assert hosted.fingerprint == own_share(run, path).fingerprint


def test_strategies_that_train_at_the_server_need_nothing_of_a_node(tmp_path):
    held = saved(tmp_path / "theirs.npz", rows=30)
    coordinator = prepare(
        load_experiment(None, [*SETTINGS, "strategy.name=fltrust", f"task.path={held}"])
    )
    assert coordinator.root is not None
    assert own_share(coordinator.plan.experiment, saved(tmp_path / "mine.npz", rows=3)).own_data


def test_an_attack_strikes_the_client_that_the_node_is(tmp_path):
    attacked = experiment("attack.kind=label_flip", "attack.classes=3", "attack.clients=[1]")
    population = own_share(attacked, saved(tmp_path / "mine.npz", rows=9)).population
    honest, attacker = (population.client(k).train.targets.tolist() for k in (0, 1))
    assert honest == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert attacker == [2, 1, 0, 2, 1, 0, 2, 1, 0]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"features": 1}, r".*mine\.npz has no column 'x1'"),
        ({"classes": 5}, r".*mine\.npz, row 3 has the class '3', which is not in task\.classes; "),
        ({"rows": 4}, r".*mine\.npz has 4 examples, less than partition\.min_examples = 5; join "),
    ],
)
def test_examples_that_do_not_fit_are_refused_in_one_sentence(tmp_path, how, sentence):
    path = saved(tmp_path / "mine.npz", **how)
    with pytest.raises((DataError, ConfigError)) as caught:
        own_share(experiment("partition.min_examples=5"), path)
    assert re.match(sentence, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        own_share(experiment(), tmp_path / "away.npz")
    assert str(caught.value) == (
        f"--data {tmp_path}/away.npz does not exist; name the file or folder of your examples"
    )


RAW = """\
from pathlib import Path

import numpy as np
import torch
from torch import nn
from roundel.core.data import Examples
from roundel.core.task import Task

def task():
    def load(path):
        arrays = np.load(path)
        return Examples(torch.from_numpy(arrays["x"]).float(), torch.from_numpy(arrays["y"]).long())
    return Task(name="raw", model=lambda: nn.Linear(2, 3), load=load)
"""


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            {"features": 3},
            "inputs of shape (3,) and targets from 0 to 2 (RuntimeError: ",
        ),
        (
            {"classes": 4},
            "inputs of shape (2,) and targets from 0 to 3 (IndexError: ",
        ),
    ],
)
def test_a_task_that_checks_nothing_is_checked_for(workplace, how, sentence):
    (workplace / "rawtask.py").write_text(RAW)
    path = saved(workplace / "mine.npz", **how)
    run = [*SETTINGS[-3:], "task.name=rawtask:task"]
    with pytest.raises(DataError) as caught:
        own_share(load_experiment(None, run), path)
    what = f"the run's model cannot do with the examples in {path}, which are {sentence}"
    assert str(caught.value).startswith(what)
    assert "\n" not in str(caught.value)


def test_a_path_without_examples_is_refused(workplace):
    (workplace / "rawtask.py").write_text(RAW)
    run = load_experiment(None, [*SETTINGS[-3:], "task.name=rawtask:task"])
    with pytest.raises(DataError, match=r"^load of the task 'raw' returned no examples; give it"):
        own_share(run, saved(workplace / "mine.npz", rows=0))


def test_a_run_and_a_node_must_both_want_own_examples():
    own, divided = experiment(), load_experiment(None, ["partition.kind=iid"])
    check_brings(own, Path("mine.npz"))
    check_brings(divided, None)
    with pytest.raises(ConfigError, match=r"^in this run every node brings .*; join with --data"):
        check_brings(own, None)
    with pytest.raises(ConfigError, match=r"^--data mine\.npz has no place in this run, .*'iid'\)"):
        check_brings(divided, Path("mine.npz"))
