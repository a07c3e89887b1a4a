"""Runs whose client states are too many for memory end as those that hold them all."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.history import History, read_history
from roundel.core.records import RoundReport
from roundel.core.statefiles import StateFiles
from roundel.simulations import deployed, resume, simulate
from roundel.simulations.deployed import simulate_as_deployed
from roundel.simulations.replay import replay
from tests import commands

ROUNDS = 6
STATE = 3 * 4810 * 4  # bytes at a client: a control variate, and two rests that were not sent


@pytest.fixture(autouse=True)
def _checkpoint_after_every_round(monkeypatch):
    monkeypatch.setattr("roundel.server.run._SHARE", 0)


def experiment_of(room: float) -> Experiment:
    """Six clients that keep state, with room in memory for so many of them."""
    return load_experiment(
        None,
        [
            *("strategy.name=scaffold", 'strategy.parts=[{name="topk", share=0.1}]'),
            *(f"rounds={ROUNDS}", "partition.clients=6", "cohort.size=3", "client.lr=0.05"),
            *("client.steps=2", "evaluation.clients=0", "checkpoint.every_s=0"),
            "engine.executor=loop",
            f"engine.state_memory_mb={room * STATE / 1e6}",
        ],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> History:
    """The run that has room for all."""
    path = tmp_path_factory.mktemp("whole") / "run"
    ran = simulate(experiment_of(room=100), out=path)
    assert not (path / "states").exists()
    return ran


def check_same_end(path: Path, whole: History) -> None:
    assert read_history(path).hashes == whole.hashes
    model = "model.safetensors"
    assert (path / model).read_bytes() == (whole.path / model).read_bytes()
    last = f"checkpoints/round-{ROUNDS:06d}.safetensors"
    expected = load_file(whole.path / last)
    named = load_file(path / last).get("filed")
    assert named is not None
    for client, number in named.tolist():
        kept = load_file(path / f"states/client-{client}-{number}.safetensors")
        assert len(kept) == 2
        for name, tensor in kept.items():
            assert torch.equal(tensor, expected[f"client/{client}/{name}"])
    assert len(named) == sum(name.endswith("scaffold.control") for name in expected)


@pytest.mark.parametrize("room", [0.5, 2])
def test_a_run_with_little_memory_ends_the_same_and_stays_within_it(
    tmp_path, whole, room, monkeypatch
):
    held: list[int] = []
    stage = ClientStore.stage

    def watched(store: ClientStore, client_id: int, state) -> None:
        stage(store, client_id, state)
        held.append(store.held_bytes)

    monkeypatch.setattr(ClientStore, "stage", watched)
    simulate(experiment_of(room), out=tmp_path / "run")
    check_same_end(tmp_path / "run", whole)
    assert len(held) == 3 * ROUNDS
    assert max(held) == int(room) * STATE


def test_a_run_that_is_killed_at_any_moment_ends_the_same(tmp_path, whole, monkeypatch):
    path, moments = tmp_path / "run", list[Path]()

    def snapshot() -> None:
        """Keep what a process that is killed now leaves behind."""
        moments.append(shutil.copytree(path, tmp_path / f"moment-{len(moments)}"))

    write = StateFiles.write

    def watched(files: StateFiles, client_id: int, state) -> Path:
        written = write(files, client_id, state)
        if int(written.stem.rsplit("-")[-1]) % 4 == 0:
            snapshot()
            moments[-1].joinpath("states", written.name).write_bytes(b"half of i")
        return written

    def after(report: RoundReport) -> None:
        if report.record.round % 2 == 0:
            snapshot()

    monkeypatch.setattr(StateFiles, "write", watched)
    simulate(experiment_of(room=1), out=path, on_round=after)
    monkeypatch.undo()
    assert len(moments) > 6
    for moment in moments:
        resume(moment)
        check_same_end(moment, whole)


def test_a_client_of_such_a_run_can_be_replayed(tmp_path, whole):
    path = tmp_path / "run"
    simulate(experiment_of(room=1), out=path)
    files = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    for line in read_history(path).clients():
        if line["round"] in {1, ROUNDS - 1, ROUNDS}:
            assert replay(path, line["round"], line["client"]).matches
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == files


def test_nodes_put_what_is_too_much_for_them_aside(tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands.nodes_from_the_zygote(monkeypatch, deployed, tmp_path)
    ran = simulate_as_deployed(
        experiment_of(room=0.5), nodes=2, out=tmp_path / "run", on_round=lambda _report: None
    )
    assert ran.hashes == whole.hashes
