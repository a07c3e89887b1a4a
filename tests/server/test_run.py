"""Rounds in a run directory: written down, checkpointed by the clock, recomputed and compared."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from roundel.core.environment import describe_environment
from roundel.core.errors import RunDirectoryError, RunFailed
from roundel.core.learning import Learner
from roundel.core.messages import ClientUpdate, TrainRequest
from roundel.core.records import RoundReport
from roundel.core.rundir import RunDirectory
from roundel.server import run as run_module
from roundel.server.aggregation import ServerState
from roundel.server.loop import Server
from roundel.server.run import Start, find_start, run_rounds
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.sites import ServerTransform, stateless
from tests.killing import killed_in
from tests.server.toys import (
    TASK,
    FakeClients,
    FakeClock,
    Toy,
    experiment_of,
    half_a_step,
    server_of,
    update_of,
)

STOP = ("rounds=9", "stop.metric=train_loss", "stop.patience=2")
ENVIRONMENT = describe_environment("r", {"mode": "test"}, {})


def create(path: Path, *settings: str) -> RunDirectory:
    return RunDirectory.create(path, experiment_of(*settings), ENVIRONMENT)


def go(
    directory: RunDirectory,
    server: Server | None = None,
    clients: FakeClients | None = None,
    on_round: Callable[[RoundReport], None] = lambda _report: None,
) -> ServerState:
    server = server or server_of(directory.experiment)
    start = find_start(server, directory)
    return run_rounds(server, clients or FakeClients(states={}), directory, start, on_round)


def lines(path: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def checkpoints(path: Path) -> list[int]:
    return [int(file.stem.split("-")[1]) for file in sorted((path / "checkpoints").iterdir())]


def without_time(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_every_round_is_written_down_and_shown(tmp_path):
    shown = []
    with create(tmp_path, "rounds=3") as directory:
        state = go(directory, on_round=shown.append)
        assert directory.finished
    assert state.round == 3
    assert [line["round"] for line in lines(tmp_path)] == [1, 2, 3]
    assert [report.record.line() for report in shown] == lines(tmp_path)
    assert not any(report.recomputed for report in shown)
    assert [line["round"] for line in lines(tmp_path, "clients.jsonl")] == [1, 1, 2, 2, 3, 3]


def test_a_round_is_on_disk_before_it_is_shown(tmp_path):
    with create(tmp_path, "rounds=2") as directory:
        go(
            directory,
            on_round=lambda report: check(lines(tmp_path)[-1]["round"], report.record.round),
        )


def check(left: object, right: object) -> None:
    assert left == right


def test_the_final_model_has_the_names_and_dtypes_of_the_users_model(tmp_path):
    with create(tmp_path, "rounds=1") as directory:
        go(directory)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "weight": [1.5, 2.0],
        "mean": [11.0],
        "count": 4,
    }
    assert (tensors["count"].dtype, tensors["weight"].dtype) == (torch.int64, torch.float32)


# ---- when to checkpoint


def paced(
    tmp_path: Path, monkeypatch, *, round_s: float, save_s: float, every_s: float
) -> list[int]:
    """Return the rounds with a checkpoint, of 40 that take `round_s` each by a fake clock."""
    clock = FakeClock()
    saved = []

    def save(_directory, state, _clients, _fingerprint):
        clock.now_s += save_s
        saved.append(state.round)

    def train(request: TrainRequest) -> ClientUpdate:
        clock.now_s += round_s
        return half_a_step(request)

    monkeypatch.setattr(run_module, "save_checkpoint", save)
    settings = ("rounds=40", "cohort.size=1", f"checkpoint.every_s={every_s}")
    with create(tmp_path, *settings) as directory:
        server = server_of(directory.experiment, clock)
        go(directory, server, FakeClients(train, states={}))
    return saved


def test_checkpoints_come_by_time_and_at_the_end(tmp_path, monkeypatch):
    saved = paced(tmp_path, monkeypatch, round_s=1.0, save_s=0.0, every_s=10.0)
    assert saved == [10, 20, 30, 40]


def test_long_rounds_have_a_checkpoint_each(tmp_path, monkeypatch):
    saved = paced(tmp_path, monkeypatch, round_s=11.0, save_s=0.1, every_s=10.0)
    assert saved == list(range(1, 41))


def test_zero_seconds_between_them_means_every_round(tmp_path, monkeypatch):
    saved = paced(tmp_path, monkeypatch, round_s=0.5, save_s=0.0, every_s=0.0)
    assert saved == list(range(1, 41))


def test_checkpoints_that_take_long_are_rarer_at_most_a_twentieth_of_the_time(
    tmp_path, monkeypatch
):
    saved = paced(tmp_path, monkeypatch, round_s=1.0, save_s=0.75, every_s=1.0)
    assert saved == [1, 16, 31, 40]


def test_short_runs_have_one_checkpoint_after_the_last_round(tmp_path):
    with create(tmp_path, "rounds=3") as directory:
        go(directory)
    assert checkpoints(tmp_path) == [3]


def test_client_states_that_are_not_at_hand_mean_no_checkpoint(tmp_path):
    with create(tmp_path, "rounds=3", "checkpoint.every_s=0") as directory:
        go(directory, clients=FakeClients(states=None))
        assert directory.finished
    assert checkpoints(tmp_path) == []


# ---- going on


def killed_after(tmp_path: Path, last: int, *settings: str) -> None:
    """Run four rounds and be killed when round `last` is shown, before its checkpoint."""
    with create(tmp_path, "rounds=4", *settings) as directory, killed_in(last) as die:
        go(directory, on_round=die)


def test_a_new_run_starts_from_the_initial_model(tmp_path):
    with create(tmp_path) as directory:
        start = find_start(server_of(directory.experiment), directory)
    assert (start.state.round, start.state.params.tolist(), start.clients) == (0, [10, 1, 2], {})


def test_a_killed_run_goes_on_from_its_newest_checkpoint(tmp_path):
    killed_after(tmp_path, 3, "checkpoint.every_s=0")
    with RunDirectory.open(tmp_path) as directory:
        start = find_start(server_of(directory.experiment), directory)
    assert start.state.round == 2


def opaque() -> Strategy:
    """Return a strategy that cannot go on from what is written down."""
    link = ServerTransform(
        name="opaque",
        init=stateless,
        update=lambda updates, state, _params, _context: (updates, state),
        missing=lambda _state: "Opaque.lock is a lock",
    )
    return compose(Part(name="opaque", server=(link,)))


def test_a_strategy_that_cannot_go_on_says_so_before_any_node_trains(tmp_path):
    killed_after(tmp_path, 3, "checkpoint.every_s=0")
    with RunDirectory.open(tmp_path) as directory:
        server = server_of(directory.experiment, strategy=opaque())
        with pytest.raises(RunFailed) as caught:
            find_start(server, directory, states_elsewhere=True)
        assert find_start(server, directory).state.round == 0
    assert str(caught.value) == (
        "opaque cannot go on in round 3 from what was written down: Opaque.lock is a lock; begin a "
        "new run"
    )


@pytest.mark.parametrize("settings", [["rounds=2"], STOP], ids=["rounds", "stop"])
def test_a_strategy_that_cannot_go_on_need_not_once_no_round_is_left(tmp_path, settings):
    with create(tmp_path, *settings) as directory:
        last = go(directory).round
    with RunDirectory.open(tmp_path) as directory:
        server = server_of(directory.experiment, strategy=opaque())
        assert find_start(server, directory, states_elsewhere=True).state.round == last


@pytest.mark.parametrize("every_s", [0, 1000])
@pytest.mark.parametrize("last", [1, 2, 4])
def test_a_resumed_run_ends_as_one_that_was_never_killed(tmp_path, every_s, last):
    with create(tmp_path / "whole", "rounds=4") as directory:
        go(directory)
    killed_after(tmp_path / "killed", last, f"checkpoint.every_s={every_s}")
    with RunDirectory.open(tmp_path / "killed") as directory:
        go(directory)
    whole, killed = (without_time(lines(tmp_path / name)) for name in ("whole", "killed"))
    assert killed == whole
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert models[0] == models[1]


def test_recomputed_rounds_are_said_to_be_and_their_lines_stay_as_they_were(tmp_path):
    killed_after(tmp_path, 3, "checkpoint.every_s=1000")
    before = (tmp_path / "metrics.jsonl").read_text()
    shown = []
    with RunDirectory.open(tmp_path) as directory:
        go(directory, server_of(directory.experiment, FakeClock(5.0)), on_round=shown.append)
    assert [report.recomputed for report in shown] == [True, True, True, False]
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    assert len(lines(tmp_path)) == 4
    assert len(lines(tmp_path, "clients.jsonl")) == 8


def test_a_recomputed_round_with_another_hash_ends_the_run_and_says_which(tmp_path):
    killed_after(tmp_path, 2, "checkpoint.every_s=1000")
    recorded = lines(tmp_path)[0]["params_sha256"]

    def train(request: TrainRequest) -> ClientUpdate:
        return update_of(request.ticket.client_id, (0.25, 0.0), ticket=request.ticket)

    with RunDirectory.open(tmp_path) as directory, pytest.raises(RunFailed) as caught:
        go(directory, clients=FakeClients(train, states={}))
    text = str(caught.value)
    assert text.startswith("round 1 was recomputed and gave the parameter hash ")
    assert text.endswith(
        f", but {recorded[:12]} is recorded: code, libraries or processor differ from those in "
        f"{tmp_path}/environment.json; resume where the run began, or start a new one"
    )
    assert caught.value.exit_code == 1
    assert len(lines(tmp_path)) == 2
    assert not (tmp_path / "model.safetensors").exists()


def test_a_run_that_was_killed_between_its_last_checkpoint_and_its_model_writes_the_model(tmp_path):
    with create(tmp_path, "rounds=2", "checkpoint.every_s=0") as directory:
        go(directory)
        (tmp_path / "model.safetensors").unlink()
        clients = FakeClients(states={})
        go(directory, clients=clients)
        assert directory.finished
    assert clients.log == []


def test_client_states_are_saved_with_the_round_that_committed_them(tmp_path):
    states = {2: {"control": torch.tensor([0.5])}}
    with create(tmp_path, "rounds=2") as directory:
        go(directory, clients=FakeClients(states=states))
        start = find_start(server_of(directory.experiment), directory)
    assert start.state.round == 2
    assert start.clients[2]["control"].tolist() == [0.5]


def test_a_failed_round_leaves_the_run_to_go_on_with(tmp_path):
    def train(request: TrainRequest) -> ClientUpdate:
        bad = request.ticket.round == 2
        return update_of(
            request.ticket.client_id,
            ticket=request.ticket,
            base_version=request.base_version,
            num_examples=0 if bad else 2,
        )

    with create(tmp_path, "rounds=3") as directory, pytest.raises(RunFailed, match="round 2 has 0"):
        go(directory, clients=FakeClients(train, states={}))
    assert [line["round"] for line in lines(tmp_path)] == [1]
    assert not (tmp_path / "model.safetensors").exists()


def test_a_start_is_the_state_and_the_client_states_that_belong_to_it(tmp_path):
    with create(tmp_path, "rounds=2") as directory:
        server = server_of(directory.experiment)
        first = next(server.rounds(FakeClients(), server.initial_state()))[0]
        start = Start(state=first, clients={})
        state = run_rounds(server, FakeClients(states={}), directory, start, lambda _r: None)
    assert [line["round"] for line in lines(tmp_path)] == [2]
    assert state.params[1].item() == 2.0


# ---- a checkpoint after each round


def test_the_next_round_begins_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    begun, story = threading.Event(), []
    save = run_module.save_checkpoint

    def slow(directory, state, *rest):
        began = begun.wait(10.0) if state.round < 3 else True
        save(directory, state, *rest)
        story.append((state.round, began))
        begun.clear()

    def train(request: TrainRequest) -> ClientUpdate:
        if request.ticket.round > 1:
            begun.set()
        return update_of(
            request.ticket.client_id,
            ticket=request.ticket,
            base_version=request.base_version,
        )

    monkeypatch.setattr(run_module, "save_checkpoint", slow)
    forgotten: list[tuple[int, list[int]]] = []

    def forget(round: int) -> None:
        forgotten.append((round, checkpoints(tmp_path)))

    with create(tmp_path, "rounds=3", "checkpoint.keep=1") as directory:
        server = server_of(directory.experiment)
        start = replace(find_start(server, directory), on_checkpoint=forget)
        run_rounds(server, FakeClients(train, states={}), directory, start, lambda _r: None)
    assert story == [(1, True), (2, True), (3, True)]
    assert forgotten == [(1, [1]), (2, [2]), (3, [3])]  # what is there is durable by then


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    def full(*_args) -> None:
        raise RunDirectoryError("the disk is full")

    monkeypatch.setattr(run_module, "save_checkpoint", full)
    forgotten: list[int] = []
    with create(tmp_path, "rounds=5") as directory:
        server = server_of(directory.experiment)
        start = replace(find_start(server, directory), on_checkpoint=forgotten.append)
        with pytest.raises(RunDirectoryError, match="the disk is full"):
            run_rounds(server, FakeClients(states={}), directory, start, lambda _r: None)
    assert [line["round"] for line in lines(tmp_path)] == [1]
    assert not forgotten
    assert not (tmp_path / "model.safetensors").exists()


# ---- runs that stop early


def test_a_run_that_stops_early_is_finished_with_a_checkpoint_and_its_model(tmp_path):
    with create(tmp_path, *STOP) as directory:
        state = go(directory)
        assert directory.finished
    assert state.round == 3
    assert [line.get("stopped") for line in lines(tmp_path)] == [
        None,
        None,
        "train_loss did not improve on 1.5 in 2 evaluations",
    ]
    assert checkpoints(tmp_path) == [3]
    assert load_file(tmp_path / "model.safetensors")["weight"].tolist() == [2.5, 2.0]


@pytest.mark.parametrize("every_s", [0, 1000])
@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_run_killed_on_its_way_to_an_early_stop_stops_where_it_would_have(
    tmp_path, every_s, last
):
    with create(tmp_path / "whole", *STOP) as directory:
        go(directory)
    killed = (*STOP, f"checkpoint.every_s={every_s}")
    with create(tmp_path / "killed", *killed) as directory, killed_in(last) as die:
        go(directory, on_round=die)
    with RunDirectory.open(tmp_path / "killed") as directory:
        go(directory)
    whole, resumed = (without_time(lines(tmp_path / name)) for name in ("whole", "killed"))
    assert resumed == whole
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert models[0] == models[1]


def test_a_stopped_run_killed_between_its_last_checkpoint_and_its_model_writes_the_model(tmp_path):
    with create(tmp_path, *STOP) as directory:
        go(directory)
        (tmp_path / "model.safetensors").unlink()
    clients = FakeClients(states={})
    with RunDirectory.open(tmp_path) as directory:
        go(directory, clients=clients)
        assert directory.finished
    assert clients.log == []
    assert len(lines(tmp_path)) == 3


def test_what_is_recorded_up_to_the_checkpoint_comes_with_the_start(tmp_path):
    killed_after(tmp_path, 3, "checkpoint.every_s=0")
    with RunDirectory.open(tmp_path) as directory:
        start = find_start(server_of(directory.experiment), directory)
    assert [line["round"] for line in start.past] == [1, 2]


def test_what_is_frozen_is_part_of_the_final_model(tmp_path):
    class Scaled(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([3.0]), requires_grad=False)

    with create(tmp_path, "rounds=1") as directory:
        server = server_of(directory.experiment)
        task = replace(TASK, model=Scaled)
        learner = Learner(task, seed=0)
        given = {**Scaled().state_dict(), "scale": torch.tensor([7.0])}
        learner.start_from(given, "there")
        server = replace(server, plan=replace(server.plan, task=task), learner=learner)
        go(directory, server)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["scale"].tolist() == [7.0]
    assert tensors["weight"].tolist() == [1.5, 2.0]
