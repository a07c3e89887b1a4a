"""Every client of every round can be trained again, here, bit for bit."""

import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError, RoundAborted, RunDirectoryError, RunFailed
from roundel.core.history import History, read_history
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.core.task import Task
from roundel.core.training import TrainingContext, TrainingResult
from roundel.simulations import Pieces, simulate
from roundel.simulations.replay import replay, restage
from roundel.strategies.compose import Part, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.sites import Selector

ROUNDS, CLIENTS = 6, 5


class Net(nn.Module):
    """A body with a norm and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.dropout(self.norm(self.body(inputs)))
        outputs: Tensor = self.head(hidden)
        return outputs


def noisy(batch: Examples) -> Examples:
    return Examples(batch.inputs + torch.randn_like(batch.inputs), batch.targets)


TASK = Task(name="net", model=Net, augment=noisy)


def client(number: int, count: int = 7) -> ClientData:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(count, 3, generator=generator)
    examples = Examples(inputs, torch.randint(2, (count,), generator=generator))
    return ClientData(train=examples, validation=examples, test=examples)


POPULATION = InMemoryPopulation([client(number) for number in range(CLIENTS)])


class Picky(nn.Module):
    """A loss that client 2, whose examples are marked, cannot bear."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if (targets == 1).all():
            raise ValueError(f"{len(targets)} times the same label")
        return nn.functional.cross_entropy(outputs, targets)


LINE_OF_THE_ERROR = inspect.getsourcelines(Picky)[1] + 5


def one_that_fails() -> InMemoryPopulation:
    data = POPULATION.clients[2]
    ones = Examples(data.train.inputs, torch.ones_like(data.train.targets))
    broken = ClientData(train=ones, validation=data.validation, test=data.test)
    return InMemoryPopulation([broken if k == 2 else POPULATION.clients[k] for k in range(CLIENTS)])


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "seed": 7,
            "rounds": ROUNDS,
            "cohort": {"size": 3},
            "client": {"epochs": 1, "batch_size": 3, "lr": 0.1},
            "evaluation": {"clients": 3, "clients_every": 2},
            "checkpoint": {"every_s": 3600},
            **changes,
        }
    )


EVERY_ROUND = {"every_s": 0, "keep": 1000}
SCAFFOLD = {"name": "scaffold"}


def run_of(out: Path, pieces: Pieces, **changes: Any) -> History:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roundel.server.run._SHARE", 0)  # then no checkpoint delays the next
        return simulate(experiment(**changes), pieces=pieces, out=out)


def trained(run: History) -> list[dict[str, Any]]:
    return [row for row in run.clients() if "stage" not in row]


def check_all(run: History, pieces: Pieces) -> None:
    """Replay every client of every round and compare it with what is recorded."""
    rows = trained(run)
    assert {row["round"] for row in rows} == set(range(1, run.experiment.rounds + 1))
    for row in rows:
        again = replay(run.path, row["round"], row["client"], pieces=pieces)
        assert again.recorded == row
        assert again.matches is (True if row["status"] == "accepted" else None), row
        if row["status"] == "accepted":
            assert again.update.num_examples == row["num_examples"]
            assert again.update.metrics.means()["loss"] == row["train_loss"]


# ---- every client of every round


@pytest.mark.parametrize(
    ("pace", "kept"),
    [(EVERY_ROUND, ROUNDS), ({"every_s": 3600}, 1)],
    ids=["a checkpoint each round", "none near"],
)
def test_scaffold(tmp_path, pace, kept):
    pieces = Pieces(task=TASK, population=POPULATION)
    run = run_of(tmp_path / "run", pieces, strategy=SCAFFOLD, checkpoint=pace)
    assert len(list((run.path / "checkpoints").iterdir())) == kept
    check_all(run, pieces)


def test_with_clients_that_dropped_out_or_failed_on_purpose_on_the_way(tmp_path):
    pieces = Pieces(task=TASK, population=POPULATION)
    changes = {"rounds": 4, "cohort": {"size": CLIENTS}, "faults": {"drop": 0.25, "fail": 0.25}}
    run = run_of(tmp_path / "run", pieces, strategy=SCAFFOLD, **changes)
    assert {row["status"] for row in trained(run)} == {"accepted", "lost", "failed"}
    check_all(run, pieces)


@pytest.mark.parametrize("width", [1, 2])
def test_with_clients_that_were_trained_on_a_stack(tmp_path, width):
    pieces = Pieces(task=TASK, population=POPULATION)
    stacked = {"executor": "vectorized", "width": width}
    run = run_of(tmp_path / "run", pieces, strategy=SCAFFOLD, engine=stacked)
    assert run.environment["engine"]["executor"] == "vectorized"
    check_all(run, pieces)


def test_with_personal_layers(tmp_path):
    task = replace(TASK, personal=lambda name: name.startswith(("head", "norm")))
    pieces = Pieces(task=task, population=POPULATION)
    check_all(run_of(tmp_path / "run", pieces, rounds=4, strategy={"name": "fedadam"}), pieces)


def own(model: nn.Module, examples: Examples, context: TrainingContext) -> TrainingResult:
    """Take noisy steps of a size that depends on how often this client took part."""
    turns = context.state.get("turns", torch.zeros(())) + 1
    parameters = list(model.parameters())
    loss = nn.functional.cross_entropy(model(examples.inputs), examples.targets)
    with torch.no_grad():
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.sub_(0.1 / turns * (slope + 0.01 * torch.randn_like(slope)))
    return TrainingResult(steps=1, loss=loss.item(), state={"turns": turns})


def test_with_training_of_ones_own(tmp_path):
    pieces = Pieces(task=replace(TASK, train=own), population=POPULATION)
    check_all(run_of(tmp_path / "run", pieces, rounds=4), pieces)


def test_with_over_selection_and_rounds_that_did_not_wait_for_all(tmp_path):
    everybody = Selector(name="everybody", select=lambda selection: range(selection.population))
    strategy = compose(fedavg(), Part(name="all", selector=everybody))
    pieces = Pieces(task=TASK, population=POPULATION, strategy=strategy)
    run = run_of(tmp_path / "run", pieces, rounds=3)
    assert [row["status"] for row in trained(run)].count("unfinished") == 3 * (CLIENTS - 3)
    check_all(run, pieces)


@pytest.mark.parametrize(
    "selector", ["poisson", "by_size", "power_of_choice", "availability", "over_selection"]
)
def test_whoever_selects(tmp_path, selector):
    pieces = Pieces(task=TASK, population=POPULATION)
    run = run_of(tmp_path / "run", pieces, rounds=3, strategy={"name": selector})
    for row in trained(run):
        if row["status"] == "accepted":
            assert replay(run.path, row["round"], row["client"], pieces=pieces).matches is True


# ---- clients that failed


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> tuple[History, Pieces]:
    task = replace(TASK, loss=Picky())
    pieces = Pieces(task=task, population=one_that_fails())
    out = tmp_path_factory.mktemp("failing") / "run"
    return run_of(out, pieces, rounds=4, strategy=SCAFFOLD), pieces


def failed_rows(run: History) -> Sequence[dict[str, Any]]:
    return [row for row in trained(run) if row["status"] == "failed" and row["client"] == 2]


def test_a_client_that_failed_raises_its_own_exception_at_its_own_line(failing):
    run, pieces = failing
    rows = failed_rows(run)
    assert len(rows) > 1
    for row in rows:
        scene = restage(run.path, row["round"], 2, pieces=pieces)
        with pytest.raises(ValueError, match=r"^3 times the same label$") as caught:
            scene.train()
        entry = caught.traceback[-1]
        assert (entry.path, entry.lineno + 1) == (Path(__file__), LINE_OF_THE_ERROR)
        assert row["location"] == f"{__file__}:{LINE_OF_THE_ERROR}"
        assert row["reason"] == f"ValueError: {caught.value}"


def test_the_others_are_computed_on_without_it(failing):
    run, pieces = failing
    for row in trained(run):
        if row["status"] == "accepted":
            assert replay(run.path, row["round"], row["client"], pieces=pieces).matches is True


def test_a_client_of_a_round_that_was_aborted_can_be_replayed(tmp_path):
    pieces = Pieces(task=replace(TASK, loss=Picky()), population=one_that_fails())
    with pytest.raises(RoundAborted):
        run_of(tmp_path / "run", pieces, cohort={"size": CLIENTS, "quorum": CLIENTS})
    with pytest.raises(ValueError, match="times the same label"):
        replay(tmp_path / "run", 1, 2, pieces=pieces)
    assert replay(tmp_path / "run", 1, 3, pieces=pieces).matches is True


def test_what_a_refused_client_would_send_is_shown_and_has_nothing_to_be_compared_with(tmp_path):
    def explode(model, examples, context):
        result = own(model, examples, context)
        if context.client_id == 2:
            with torch.no_grad():
                model.get_parameter("head.bias").fill_(torch.nan)
        return result

    pieces = Pieces(task=replace(TASK, train=explode), population=POPULATION)
    run = run_of(tmp_path / "run", pieces)
    (first, *_) = [row for row in trained(run) if row["status"] == "rejected"]
    again = replay(run.path, first["round"], 2, pieces=pieces)
    assert again.matches is None
    assert again.update.channels["params"].isnan().any()


# ---- the scene


@pytest.fixture(scope="module")
def scaffolded(tmp_path_factory) -> tuple[History, Pieces]:
    pieces = Pieces(task=TASK, population=POPULATION)
    return run_of(tmp_path_factory.mktemp("scene") / "run", pieces, strategy=SCAFFOLD), pieces


def cohort(run: History, round: int) -> list[int]:
    return [row["client"] for row in trained(run) if row["round"] == round]


def test_rounds_on_the_way_are_computed_again_and_told_but_not_evaluated(scaffolded):
    run, pieces = scaffolded
    seen: list[RoundReport] = []
    scene = restage(run.path, 4, cohort(run, 4)[0], pieces=pieces, on_round=seen.append)
    assert (scene.began, scene.request.ticket.round, scene.request.base_version) == (0, 4, 3)
    assert [report.record.params_sha256 for report in seen] == run.hashes[:3]
    assert all(report.recomputed for report in seen)
    assert all(report.record.clients is None for report in seen)


def test_the_client_has_its_own_state_and_the_servers(scaffolded):
    run, pieces = scaffolded
    late = next(k for k in cohort(run, ROUNDS) if k in cohort(run, 1))
    scene = restage(run.path, ROUNDS, late, pieces=pieces)
    assert set(scene.state) == {"scaffold.control"}
    assert scene.request.channels["control"].count_nonzero() > 0
    first = restage(run.path, 1, cohort(run, 1)[0], pieces=pieces)
    assert first.state == {}
    assert first.request.params.equal(TASK.spec(TASK.new_model(7)).read(TASK.new_model(7))[0])


def test_a_scene_can_be_played_as_often_as_one_likes(scaffolded):
    run, pieces = scaffolded
    scene = restage(run.path, 3, cohort(run, 3)[0], pieces=pieces)
    hashes = {scene.train().update_blake3 for _ in range(3)}
    assert len(hashes) == 1


def test_nothing_is_written_and_no_generator_or_thread_count_moves(scaffolded):
    run, pieces = scaffolded
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*")}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    replay(run.path, 2, cohort(run, 2)[0], pieces=pieces)
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*")} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_run_that_is_going_on_can_be_looked_at(tmp_path):
    pieces = Pieces(task=TASK, population=POPULATION)
    out = tmp_path / "run"
    matches = []

    def look(report: RoundReport) -> None:
        client_id = report.clients[0].client
        matches.append(replay(out, report.record.round, client_id, pieces=pieces).matches)

    simulate(experiment(rounds=3, strategy=SCAFFOLD), pieces=pieces, out=out, on_round=look)
    assert matches == [True] * 3


def test_code_that_has_changed_is_found_out(scaffolded):
    run, pieces = scaffolded
    changed = replace(pieces, task=replace(TASK, augment=None))
    again = replay(run.path, 1, cohort(run, 1)[0], pieces=changed)
    assert again.matches is False
    with pytest.raises(RunFailed) as caught:
        replay(run.path, 3, cohort(run, 3)[0], pieces=changed)
    assert str(caught.value) == (
        f"round 1 came out with another parameter hash than {run.path} records: code, libraries "
        "or processor differ from those of the run; replay where it ran"
    )


# ---- what was not there


def test_a_client_that_was_not_in_the_round_is_refused_with_those_that_were(scaffolded):
    run, pieces = scaffolded
    there = cohort(run, 2)
    absent = next(k for k in range(CLIENTS) if k not in there)
    with pytest.raises(ConfigError) as caught:
        replay(run.path, 2, absent, pieces=pieces)
    assert str(caught.value) == (
        f"client {absent} was not in the cohort of round 2, which was "
        f"{', '.join(map(str, there))}; replay one of those"
    )


def test_a_client_that_was_only_evaluated_was_not_in_the_round(tmp_path):
    def metrics(_outputs: Tensor, _targets: Tensor) -> dict[str, Tensor]:
        raise ValueError("no")

    pieces = Pieces(task=replace(TASK, metrics=metrics), population=POPULATION)
    changes = {"rounds": 1, "cohort": {"size": 1}, "evaluation": {"clients": CLIENTS}}
    run = run_of(tmp_path / "run", pieces, **changes)
    assert len([row for row in run.clients() if row.get("stage") == "evaluate"]) == CLIENTS
    (there,) = cohort(run, 1)
    assert replay(run.path, 1, there, pieces=pieces).matches is True
    with pytest.raises(ConfigError, match="was not in the cohort of round 1"):
        replay(run.path, 1, (there + 1) % CLIENTS, pieces=pieces)


def test_a_large_cohort_is_named_in_part(scaffolded, tmp_path):
    run, pieces = scaffolded
    copy = shutil.copytree(run.path, tmp_path / "run")
    rows = [{"round": 1, "client": k, "status": "accepted"} for k in range(23)]
    (copy / "clients.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(ConfigError, match=r", 18, 19 and 3 more; replay one of those$"):
        replay(copy, 1, 99, pieces=pieces)


@pytest.mark.parametrize("round", [0, ROUNDS + 1])
def test_a_round_that_was_not_there_is_refused(scaffolded, round):
    run, pieces = scaffolded
    with pytest.raises(ConfigError, match=f"records no round {round}; `roundel show .*` lists the"):
        replay(run.path, round, 0, pieces=pieces)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        replay(tmp_path, 1, 0)


def test_a_named_task_needs_no_pieces(tmp_path):
    sets = ["rounds=2", "partition.clients=4", "cohort.size=2", "client.steps=2"]
    run = simulate(settings=[*sets, "evaluation.clients=0"], out=tmp_path / "run")
    for row in read_history(run.path).clients():
        assert replay(run.path, row["round"], row["client"]).matches is True


def test_a_client_whose_examples_lie_at_its_node_cannot_be_trained_here(tmp_path):
    own = Experiment.model_validate({"partition": {"kind": "own", "clients": 3}})
    environment = describe_environment("r", {}, {})
    with RunDirectory.create(tmp_path / "run", own, environment):
        pass
    with pytest.raises(ConfigError, match="at their nodes, and a replay needs them here; "):
        restage(tmp_path / "run", round=1, client=0)
