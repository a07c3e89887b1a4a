"""Simulating from Python, as in a notebook: runs, failures, populations made on demand."""

import inspect
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples
from roundel.core.errors import CompositionError, ConfigError, RunDirectoryError, RunFailed
from roundel.core.records import RoundReport
from roundel.core.rundir import read_lines
from roundel.simulations import Pieces, resume, simulate
from roundel.simulations.simulate import new_run_path, prepare
from roundel.strategies.fedavg import fedavg
from tests.commands import settings
from tests.federations import Quadratic, quadratic_task

TASK = quadratic_task(torch.zeros(2, dtype=torch.float64))
NONE = Examples(torch.zeros(0, 3, 2, dtype=torch.float64), torch.zeros(0))


def holding(train: Examples) -> ClientData:
    return ClientData(train=train, validation=NONE, test=NONE)


@dataclass
class MadeOnDemand:
    """A population in which client k's optimum is ``(k, 1)``; it notes who was asked for."""

    size: int = 4
    broken: Callable[[int], bool] = lambda _client_id: False
    asked: list[int] = field(default_factory=list[int])

    def client(self, client_id: int) -> ClientData:
        self.asked.append(client_id)
        if self.broken(client_id):
            read_from_disk()
        return holding(Quadratic.of([1.0, 1.0], [float(client_id), 1.0]).examples())


def read_from_disk() -> None:
    raise OSError("the disk is on fire")


LINE_OF_THE_ERROR = inspect.getsourcelines(read_from_disk)[1] + 1


def experiment(**changes: object) -> Experiment:
    return Experiment.model_validate(
        {
            "rounds": 3,
            "cohort": {"size": 4},
            "client": {"steps": 1, "lr": 0.5},
            "evaluation": {"clients": 0},
        }
        | changes
    )


def federate(out: Path, population: MadeOnDemand | None = None, **changes: object):
    pieces = Pieces(task=TASK, population=population or MadeOnDemand())
    return simulate(experiment(**changes), pieces=pieces, out=out)


# ---- as in a notebook


def test_the_defaults_learn_the_digits(tmp_path):
    sets = settings(rounds=2, client__steps=2, evaluation__clients=5)[1::2]
    run = simulate(settings=sets, out=tmp_path / "run")
    assert run.experiment.partition.clients == 100
    assert run.experiment.task.name == "digits"
    assert [line["completed"] for line in run.rounds] == [run.experiment.cohort.size] * 2
    assert all(0 < accuracy <= 1 for accuracy in run.series("accuracy"))
    assert run.rounds[-1]["clients"]["asked"] == 5


def test_a_run_is_worked_out_by_hand(tmp_path):
    """Each client halves its distance to (k, 1); the mean optimum of clients 0 to 3 is (1.5, 1)."""
    run = federate(tmp_path / "run")
    losses = run.series("train_loss")
    assert losses[0] == pytest.approx(np.mean([(k**2 + 1) / 2 for k in range(4)]))
    first = [0.75, 0.5]
    second = np.mean([((k - first[0]) ** 2 + (1 - first[1]) ** 2) / 2 for k in range(4)])
    assert losses[1] == pytest.approx(second)


def test_nothing_is_written_but_the_run_directory(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    federate(tmp_path / "run")
    assert list((tmp_path / "cwd").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"cwd", "run"}


def test_nothing_is_printed(tmp_path, capfd):
    federate(tmp_path / "run", MadeOnDemand(broken=lambda k: k == 1))
    assert capfd.readouterr() == ("", "")


def test_generators_and_threads_of_the_notebook_are_left_as_they_were(tmp_path):
    def state():
        legacy = np.random.get_state()  # noqa: NPY002 - what a notebook may draw from
        return [torch.get_rng_state().tolist(), random.getstate(), str(legacy)]

    before, threads = state(), torch.get_num_threads()
    federate(tmp_path / "run", engine={"threads": 2})
    assert state() == before
    assert torch.get_num_threads() == threads


def test_the_threads_of_the_experiment_are_used_and_put_back_even_if_it_fails(tmp_path):
    seen = []

    def report(_report: RoundReport) -> None:
        seen.append(torch.get_num_threads())
        raise KeyError

    threads = torch.get_num_threads()
    pieces = Pieces(task=TASK, population=MadeOnDemand())
    with pytest.raises(KeyError):
        simulate(
            experiment(engine={"threads": 2}), pieces=pieces, out=tmp_path / "r", on_round=report
        )
    assert seen == [2]
    assert torch.get_num_threads() == threads


def test_each_round_is_reported_as_it_ends(tmp_path):
    seen: list[RoundReport] = []
    pieces = Pieces(task=TASK, population=MadeOnDemand())
    run = simulate(experiment(), pieces=pieces, out=tmp_path / "run", on_round=seen.append)
    assert [report.record.line() for report in seen] == list(run.rounds)
    assert [len(report.clients) for report in seen] == [4, 4, 4]


def test_a_file_and_settings_over_it(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nrounds = 7\n[cohort]\nsize = 4\n')
    pieces = Pieces(task=TASK, population=MadeOnDemand())
    run = simulate(str(file), settings=["rounds=1"], pieces=pieces, out=tmp_path / "run")
    assert (run.experiment.name, len(run.rounds)) == ("mine", 1)


def test_settings_beside_a_complete_experiment_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"settings .* an experiment is given"):
        simulate(experiment(), settings=["rounds=1"], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_your_own_strategy_takes_the_place_of_the_named_one(tmp_path):
    pieces = Pieces(task=TASK, population=MadeOnDemand(), strategy=fedavg(server_lr=2.0))
    fast = simulate(experiment(rounds=1), pieces=pieces, out=tmp_path / "fast")
    named = federate(tmp_path / "named", rounds=1, strategy={"name": "fedavg", "server_lr": 2.0})
    slow = federate(tmp_path / "slow", rounds=1)
    assert fast.hashes == named.hashes != slow.hashes


def test_a_task_without_examples_needs_a_population(tmp_path):
    with pytest.raises(ConfigError, match="brings no examples to divide; give a population"):
        simulate(experiment(), pieces=Pieces(task=TASK), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_strategy_that_contradicts_the_experiment_is_refused_before_round_1(tmp_path):
    with pytest.raises(CompositionError, match="sgd"):
        federate(
            tmp_path / "run",
            strategy={"name": "scaffold"},
            client={"optimizer": "adam", "steps": 1},
        )
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_name_have_two_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = new_run_path("mine")
    first.mkdir(parents=True)
    assert new_run_path("mine") != first
    assert new_run_path("a/b").parent == Path("runs")


# ---- going on


def test_a_run_goes_on_with_the_pieces_that_it_began_with(tmp_path):
    class Interrupted(Exception):
        pass

    def stop_after_2(report: RoundReport) -> None:
        if report.record.round == 2:
            raise Interrupted

    pieces = Pieces(task=TASK, population=MadeOnDemand())
    with pytest.raises(Interrupted):
        simulate(experiment(), pieces=pieces, out=tmp_path / "run", on_round=stop_after_2)
    run = resume(tmp_path / "run", pieces=pieces)
    assert run.hashes == federate(tmp_path / "whole").hashes


def test_a_finished_run_is_not_computed_again(tmp_path):
    federate(tmp_path / "run")
    population = MadeOnDemand()
    run = resume(tmp_path / "run", pieces=Pieces(task=TASK, population=population))
    assert len(run.rounds) == 3
    assert population.asked == []


def test_a_run_is_not_begun_where_one_is(tmp_path):
    federate(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="already holds a run; go on with it by"):
        federate(tmp_path / "run")


# ---- clients that fail


def test_a_client_that_raises_is_named_with_the_users_line_and_the_round_goes_on(tmp_path):
    run = federate(tmp_path / "run", MadeOnDemand(broken=lambda k: k == 2))
    assert [(line["completed"], line["failures"]) for line in run.rounds] == [(3, 1)] * 3
    failed = [row for row in run.clients() if row["status"] != "accepted"]
    assert failed == [
        {
            "round": round,
            "client": 2,
            "status": "failed",
            "attempt": 0,
            "reason": "OSError: the disk is on fire",
            "location": f"{__file__}:{LINE_OF_THE_ERROR}",
        }
        for round in (1, 2, 3)
    ]


def test_the_traceback_of_a_failure_is_in_the_run_directory(tmp_path):
    federate(tmp_path / "run", MadeOnDemand(broken=lambda k: k == 2), rounds=1)
    (file,) = (tmp_path / "run" / "failures").iterdir()
    assert file.name == "round-000001-client-2.txt"
    text = file.read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert f'{__file__}", line {LINE_OF_THE_ERROR}, in read_from_disk' in text
    assert text.endswith("OSError: the disk is on fire\n")


def test_an_error_in_the_users_loss_is_named_too(tmp_path):
    def loss(outputs: Tensor, _targets: Tensor) -> Tensor:
        if outputs.sum() > 4:  # only client 3 starts that far away
            raise ValueError("too far")
        return outputs.mean()

    pieces = Pieces(task=replace(TASK, loss=loss), population=MadeOnDemand())
    run = simulate(experiment(rounds=1), pieces=pieces, out=tmp_path / "run")
    (failed,) = (row for row in run.clients() if row["status"] == "failed")
    assert (failed["client"], failed["reason"]) == (3, "ValueError: too far")
    assert failed["location"] == f"{__file__}:{inspect.getsourcelines(loss)[1] + 2}"


def test_the_others_learn_what_they_would_have_learned_without_the_one_that_fails(tmp_path):
    with_it = federate(tmp_path / "with", MadeOnDemand(broken=lambda k: k == 3))
    without = federate(tmp_path / "without", MadeOnDemand(size=3), cohort={"size": 3})
    assert with_it.hashes == without.hashes


def test_a_run_of_which_every_client_fails_ends_with_the_traceback(tmp_path):
    with pytest.raises(RunFailed) as failed:
        federate(tmp_path / "run", MadeOnDemand(broken=lambda _k: True))
    message = str(failed.value)
    assert message.startswith("round 1 has 0 accepted of 4 updates and needs 1")
    assert f"client 0: OSError: the disk is on fire ({__file__}:{LINE_OF_THE_ERROR})" in message
    assert "Traceback (most recent call last):" in message
    assert failed.value.exit_code == 1


def test_a_round_without_its_quorum_ends_the_run_and_applies_nothing(tmp_path):
    population = MadeOnDemand(broken=lambda k: k > 1 and len(population.asked) > 4)
    with pytest.raises(RunFailed, match="round 2 has 2 accepted of 4 updates and needs 3"):
        federate(tmp_path / "run", population, cohort={"size": 4, "quorum": 3})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1]
    said = list(read_lines(tmp_path / "run" / "clients.jsonl"))
    assert [(c["round"], c["client"], c["status"]) for c in said[4:]] == [
        (2, 0, "accepted"),
        (2, 1, "accepted"),
        (2, 2, "failed"),
        (2, 3, "failed"),
    ]
    run = resume(tmp_path / "run", pieces=Pieces(task=TASK, population=MadeOnDemand()))
    assert run.hashes == federate(tmp_path / "whole").hashes


# ---- populations of any size


def test_a_population_of_a_billion_costs_what_its_cohort_costs(tmp_path):
    population = MadeOnDemand(size=10**9)
    changes = {"cohort": {"size": 5}, "evaluation": {"clients": 3, "clients_every": 1}}
    run = federate(tmp_path / "run", population, **changes)
    assert [line["completed"] for line in run.rounds] == [5, 5, 5]
    assert len(population.asked) == 3 * (5 + 3)
    assert max(population.asked) > 10**7


def test_preparing_an_experiment_asks_for_no_client(tmp_path):
    population = MadeOnDemand(size=10**9)
    prepare(experiment(), Pieces(task=TASK, population=population))
    assert population.asked == []


def test_each_client_of_a_cohort_is_asked_for_once_a_round(tmp_path):
    population = MadeOnDemand()
    federate(tmp_path / "run", population)
    assert population.asked == [0, 1, 2, 3] * 3
