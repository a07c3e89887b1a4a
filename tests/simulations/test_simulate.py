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
from torch import Tensor, nn

from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.errors import CompositionError, ConfigError, RunDirectoryError, RunFailed
from roundel.core.faults import drops, fails
from roundel.core.records import RoundReport
from roundel.core.runfiles import read_lines
from roundel.core.training import TrainingContext, TrainingResult
from roundel.simulations import Pieces, resume, simulate
from roundel.simulations.prepare import prepare
from roundel.simulations.simulate import new_run_path
from roundel.simulations.tasks.digits import digits
from roundel.strategies.fedavg import fedavg
from tests.commands import settings
from tests.federations import Quadratic, quadratic_task
from tests.killing import killed_in

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
    """Simulate; `population.asked` says who was asked for in the rounds."""
    population = population or MadeOnDemand()
    pieces = Pieces(task=TASK, population=population)
    return simulate(
        experiment(**changes),
        pieces=pieces,
        out=out,
        on_start=lambda _report: population.asked.clear(),
    )


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
    rows = read_lines(tmp_path / "run" / "clients.jsonl")
    trained = [row["client"] for row in rows]
    assert len(population.asked) == 3 * (5 + 3)
    assert set(trained) <= set(population.asked)
    assert max(population.asked) > 10**7


def test_before_the_first_round_a_hundred_clients_are_looked_at_and_one_is_tried_out(tmp_path):
    population = MadeOnDemand(size=10**6)
    asked = []
    simulate(
        experiment(rounds=1),
        pieces=Pieces(task=TASK, population=population),
        out=tmp_path / "run",
        on_start=lambda _report: asked.extend(population.asked),
    )
    assert asked[0] == 0  # whose examples tell whether clients can be trained together
    assert len(set(asked)) == len(asked) == 1 + 100


def test_a_task_that_makes_its_clients_is_asked_for_those_that_take_part(tmp_path):
    made: list[MadeOnDemand] = []

    def population(clients: int, _seed: int) -> MadeOnDemand:
        made.append(MadeOnDemand(size=clients))
        return made[-1]

    task = replace(TASK, population=population)
    run = simulate(
        experiment(partition={"clients": 10**6}, cohort={"size": 10}),
        pieces=Pieces(task=task),
        out=tmp_path / "run",
        on_start=lambda _report: made[0].asked.clear(),
    )
    assert [line["completed"] for line in run.rounds] == [10, 10, 10]
    assert len(made[0].asked) == 30
    assert run.experiment.partition.clients == 10**6


def test_preparing_an_experiment_asks_for_no_client(tmp_path):
    population = MadeOnDemand(size=10**9)
    prepare(experiment(), Pieces(task=TASK, population=population))
    assert population.asked == []


def test_each_client_of_a_cohort_is_asked_for_once_a_round(tmp_path):
    population = MadeOnDemand()
    federate(tmp_path / "run", population)
    assert population.asked == [0, 1, 2, 3] * 3


# ---- failures on purpose


FAULTS = {"drop": 0.3, "fail": 0.3}


def test_clients_that_drop_out_or_fail_on_purpose_are_those_that_the_seed_names(tmp_path):
    run = federate(tmp_path / "run", MadeOnDemand(size=12), cohort={"size": 12}, faults=FAULTS)
    expected = {
        (r, k): "lost"
        if drops(run.experiment, r, k)
        else "failed"
        if fails(run.experiment, r, k)
        else "accepted"
        for r in (1, 2, 3)
        for k in range(12)
    }
    assert {(row["round"], row["client"]): row["status"] for row in run.clients()} == expected
    assert set(expected.values()) == {"lost", "failed", "accepted"}
    assert [line["health"]["lost"] for line in run.rounds] == [
        sum(expected[r, k] == "lost" for k in range(12)) for r in (1, 2, 3)
    ]
    reasons = {row["reason"] for row in run.clients() if row["status"] != "accepted"}
    assert reasons == {
        "it dropped out on purpose (faults.drop)",
        "it failed on purpose (faults.fail)",
    }
    assert not (run.path / "failures").exists()


def test_those_that_are_left_learn_what_they_would_have_learned_alone(tmp_path):
    def left(k: int) -> bool:
        return not drops(run.experiment, 1, k) and not fails(run.experiment, 1, k)

    run = federate(
        tmp_path / "run", MadeOnDemand(size=12), rounds=1, cohort={"size": 12}, faults=FAULTS
    )
    others = MadeOnDemand(size=12, broken=lambda k: not left(k))
    same = federate(tmp_path / "same", others, rounds=1, cohort={"size": 12})
    assert run.hashes == same.hashes


@pytest.mark.parametrize("last", [1, 2])
def test_a_run_with_failures_on_purpose_goes_on_to_the_same_end(tmp_path, last):
    changes = {"cohort": {"size": 12}, "faults": FAULTS, "strategy": {"name": "scaffold"}}
    whole = federate(tmp_path / "whole", MadeOnDemand(size=12), **changes)
    pieces = Pieces(task=TASK, population=MadeOnDemand(size=12))
    with killed_in(last) as die:
        simulate(experiment(**changes), pieces=pieces, out=tmp_path / "run", on_round=die)
    run = resume(tmp_path / "run", pieces=pieces)
    assert run.hashes == whole.hashes
    assert [row["status"] for row in run.clients()] == [row["status"] for row in whole.clients()]


def test_if_everybody_drops_out_the_run_ends_with_one_sentence(tmp_path):
    with pytest.raises(RunFailed) as failed:
        federate(tmp_path / "run", faults={"drop": 1.0})
    assert str(failed.value) == (
        "round 1 has 0 accepted of 4 updates and needs 1: every client answered or was lost; "
        "client 0: it dropped out on purpose (faults.drop)"
    )
    assert [row["status"] for row in read_lines(tmp_path / "run" / "clients.jsonl")] == ["lost"] * 4


def test_if_everybody_fails_on_purpose_the_run_ends_with_one_sentence(tmp_path):
    with pytest.raises(RunFailed) as failed:
        federate(tmp_path / "run", faults={"fail": 1.0})
    assert str(failed.value).endswith("; client 0: it failed on purpose (faults.fail)")


# ---- training of one's own


def momentum(model: nn.Module, examples: Examples, context: TrainingContext) -> TrainingResult:
    """Train with a momentum that each client keeps for itself; client 3 sends nonsense in 2."""
    velocity = context.state.get("velocity", torch.zeros(2, dtype=torch.float64))
    (parameter,) = model.parameters()
    (gradient,) = torch.autograd.grad(model(examples.inputs).mean(), [parameter])
    velocity.mul_(0.5).add_(gradient)
    with torch.no_grad():
        parameter -= 0.5 * velocity
        if (context.round, context.client_id) == (2, 3):
            parameter.fill_(torch.nan)
    SEEN[context.round, context.client_id] = (velocity - gradient).mul(2).tolist()
    return TrainingResult(steps=1, state={"velocity": velocity})


SEEN: dict[tuple[int, int], list[float]] = {}


def test_state_of_ones_own_comes_back_once_the_update_was_accepted_and_not_before(tmp_path):
    SEEN.clear()
    pieces = Pieces(task=replace(TASK, train=momentum), population=MadeOnDemand())
    run = simulate(experiment(), pieces=pieces, out=tmp_path / "run")
    assert [line["completed"] for line in run.rounds] == [4, 3, 4]
    # Everybody starts at 0: the first gradient of client k is -(k, 1), and kept.
    assert [SEEN[1, k] for k in range(4)] == [[0.0, 0.0]] * 4
    assert [SEEN[2, k] for k in range(4)] == [[-float(k), -1.0] for k in range(4)]
    assert SEEN[3, 3] == SEEN[2, 3]  # what it kept in round 2 was refused with its update
    assert SEEN[3, 1] != SEEN[2, 1]


def test_training_of_ones_own_goes_on_to_the_same_end(tmp_path):
    pieces = Pieces(task=replace(TASK, train=momentum), population=MadeOnDemand())
    every_round = experiment(checkpoint={"every_s": 0})
    whole = simulate(every_round, pieces=pieces, out=tmp_path / "whole")
    with killed_in(2) as die:
        simulate(every_round, pieces=pieces, out=tmp_path / "run", on_round=die)
    assert resume(tmp_path / "run", pieces=pieces).hashes == whole.hashes


# ---- evaluation


def split_population() -> InMemoryPopulation:
    """Clients of which only some hold out enough for figures of their own."""
    points = [Quadratic.of([1.0, 1.0], [float(k), 1.0]).examples(k + 1) for k in range(6)]
    return InMemoryPopulation(
        clients=[ClientData(train=each, validation=NONE, test=each) for each in points]
    )


def test_without_a_global_test_set_the_run_is_judged_by_its_clients(tmp_path):
    pieces = Pieces(task=TASK, population=split_population())
    run = simulate(
        experiment(evaluation={"every": 2, "clients": 6}), pieces=pieces, out=tmp_path / "run"
    )
    assert [line["loss"] is not None for line in run.rounds] == [False, True, True]
    for line in run.rounds[1:]:
        assert line["loss"] == line["clients"]["loss"]["mean"]
        assert (line["clients"]["examples"], line["clients"]["small"]) == (21, 4)


def test_a_metric_that_fails_on_clients_is_named_and_the_run_goes_on(tmp_path):
    def metrics(outputs: Tensor, _targets: Tensor) -> dict[str, Tensor]:
        if len(outputs) == 3:
            raise ValueError("three are too few")
        return {"seen": torch.ones(len(outputs)).sum()}

    pieces = Pieces(task=replace(TASK, metrics=metrics), population=split_population())
    run = simulate(
        experiment(evaluation={"clients": 6, "clients_every": 3}),
        pieces=pieces,
        out=tmp_path / "run",
    )
    (failed,) = (row for row in run.clients() if row["status"] == "failed")
    assert (failed["round"], failed["client"], failed["stage"]) == (3, 2, "evaluate")
    assert failed["reason"] == "ValueError: three are too few"
    assert failed["location"] == f"{__file__}:{inspect.getsourcelines(metrics)[1] + 2}"
    (file,) = (run.path / "failures").iterdir()
    assert file.name == "round-000003-client-2.txt"
    assert run.rounds[-1]["clients"]["failures"] == 1
    assert [line["failures"] for line in run.rounds] == [0, 0, 0]


# ---- what a run began with


def interrupted(path: Path) -> None:
    """Make a finished run look like one that was killed after its first round."""
    (path / "model.safetensors").unlink()
    for name in ("metrics.jsonl", "clients.jsonl"):
        lines = (path / name).read_text().splitlines(keepends=True)
        (path / name).write_text("".join(x for x in lines if json.loads(x)["round"] == 1))


def test_a_run_that_was_given_objects_is_not_gone_on_with_without_them(tmp_path):
    simulate(settings=["rounds=2"], pieces=Pieces(task=digits()), out=tmp_path / "run")
    interrupted(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"given its task as an object, .* Pieces\(task"):
        resume(tmp_path / "run")


def test_a_run_is_not_gone_on_with_over_other_data(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,y\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(60)))
    settings = ["task.name=tabular", f"task.path={table}", "rounds=2", "partition.clients=4"]
    simulate(settings=[*settings, "cohort.size=2"], out=tmp_path / "run")
    interrupted(tmp_path / "run")
    table.write_text("a,y\n" + "".join(f"{i % 7 + 5},{i % 2}\n" for i in range(60)))
    with pytest.raises(RunDirectoryError, match=r"with other data than .*table.csv gives now"):
        resume(tmp_path / "run")


def test_a_run_is_not_gone_on_with_from_other_initial_parameters(tmp_path):
    first = simulate(settings=["rounds=1", "evaluation.clients=0"], out=tmp_path / "first")
    settings = ["rounds=2", f"task.initial={first.path}", "evaluation.clients=0"]
    simulate(settings=settings, out=tmp_path / "run")
    interrupted(tmp_path / "run")
    simulate(settings=["rounds=1", "seed=1", "evaluation.clients=0"], out=tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(first.path / "model.safetensors")
    with pytest.raises(RunDirectoryError, match=r"began with other parameters than .*first holds"):
        resume(tmp_path / "run")


def test_a_run_that_was_killed_before_its_partition_was_written_gets_it_when_it_goes_on(tmp_path):
    simulate(settings=["rounds=2", "evaluation.clients=0"], out=tmp_path / "run")
    interrupted(tmp_path / "run")
    written = (tmp_path / "run" / "partition.json").read_bytes()
    for name in ("partition.json", "partition.npz", "partition.svg"):
        (tmp_path / "run" / name).unlink()
    resume(tmp_path / "run")
    assert (tmp_path / "run" / "partition.json").read_bytes() == written


def test_figures_of_clients_never_stand_in_for_those_of_the_global_test_set(tmp_path):
    run = simulate(
        settings=["rounds=3", "evaluation.every=2", "evaluation.clients_every=1"],
        out=tmp_path / "run",
    )
    assert [line["accuracy"] is None for line in run.rounds] == [True, False, False]
    assert all(line["clients"]["accuracy"]["mean"] >= 0 for line in run.rounds)


def test_why_a_run_failed_is_in_its_directory_until_it_goes_on(tmp_path):
    settings = ["rounds=2", "faults.drop=1.0", "evaluation.clients=0"]
    with pytest.raises(RunFailed) as caught:
        simulate(settings=settings, out=tmp_path / "run")
    assert (tmp_path / "run" / "failed.txt").read_text() == f"{caught.value}\n"
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("drop = 1.0", "drop = 0.0"))
    assert len(resume(tmp_path / "run").rounds) == 2
    assert not (tmp_path / "run" / "failed.txt").exists()
