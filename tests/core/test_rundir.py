"""The run directory: what is written, and what is found again."""

import json
import tomllib
from dataclasses import replace

import pytest
import torch

from roundel.core.config import Experiment, TopologyConfig
from roundel.core.errors import RunDirectoryError, RunFailed
from roundel.core.history import read_history
from roundel.core.records import ClientRecord, RoundRecord, RoundReport
from roundel.core.rundir import RunDirectory, read_checkpoints
from roundel.core.runfiles import (
    SCHEMA_VERSION,
    is_run,
    read_bound,
    read_lines,
    read_run,
    read_secrets,
)

EXPERIMENT = Experiment.model_validate({"rounds": 3, "checkpoint": {"keep": 2}})
ENVIRONMENT = {"schema_version": SCHEMA_VERSION, "run_id": "r", "engine": {"threads": 1}}


def report(number: int, sha: str = "a") -> RoundReport:
    record = RoundRecord(
        round=number,
        metrics={"loss": 0.5, "accuracy": 0.75},
        train_loss=0.25,
        cohort=2,
        completed=1,
        failures=1,
        bytes_up=10,
        bytes_down=20,
        seconds=0.125,
        params_sha256=sha,
        health={"rejected": 0},
    )
    clients = (
        ClientRecord(round=number, client=0, status="accepted", num_examples=3),
        ClientRecord(round=number, client=1, status="failed", reason="ValueError: no"),
    )
    return RoundReport(record=record, clients=clients, failures={1: "Traceback ..."})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "one"


def test_a_new_run_says_what_it_runs_and_on_what(path):
    RunDirectory.create(path, EXPERIMENT, ENVIRONMENT).close()
    assert is_run(path)
    assert tomllib.loads((path / "config.toml").read_text())["rounds"] == 3
    assert json.loads((path / "environment.json").read_text()) == ENVIRONMENT
    assert read_run(path) == (EXPERIMENT, ENVIRONMENT)


def test_a_round_leaves_a_line_a_line_for_each_client_and_the_tracebacks(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(report(1))
    history = read_history(path)
    assert history.rounds == (
        {
            "round": 1,
            "loss": 0.5,
            "accuracy": 0.75,
            "train_loss": 0.25,
            "cohort": 2,
            "completed": 1,
            "failures": 1,
            "bytes_up": 10,
            "bytes_down": 20,
            "seconds": 0.125,
            "params_sha256": "a",
            "health": {"rejected": 0},
        },
    )
    assert history.clients() == [
        {"round": 1, "client": 0, "status": "accepted", "attempt": 0, "num_examples": 3},
        {
            "round": 1,
            "client": 1,
            "status": "failed",
            "attempt": 0,
            "reason": "ValueError: no",
        },
    ]
    assert (history.hashes, history.series("accuracy")) == (["a"], [0.75])
    (traceback,) = (path / "failures").iterdir()
    assert traceback.name == "round-000001-client-1.txt"
    assert traceback.read_text() == "Traceback ..."


def test_clients_of_a_round_that_was_aborted_are_written_down_until_the_run_goes_on(path):
    aborted = report(2)
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(report(1))
        directory.add_clients(aborted.clients, aborted.failures)
    assert [line["round"] for line in read_lines(path / "clients.jsonl")] == [1, 1, 2, 2]
    assert (path / "failures" / "round-000002-client-1.txt").exists()
    with RunDirectory.open(path) as directory:
        directory.add_clients(report(1).clients, {})  # recorded already: nothing to add
    assert [line["round"] for line in read_lines(path / "clients.jsonl")] == [1, 1]


def test_a_run_that_is_opened_again_knows_the_hashes_it_recorded(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(report(1, "a"))
        directory.add_round(report(2, "b"))
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {1: "a", 2: "b"}
        assert not directory.finished


def test_what_a_crash_left_of_a_round_is_dropped(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(report(1))
    with (path / "clients.jsonl").open("a") as file:
        file.write('{"round": 2, "client": 0}\n{"round": 2, "cli')
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "lo')
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {1: "a"}
    assert [line["round"] for line in read_lines(path / "metrics.jsonl")] == [1]
    assert [line["round"] for line in read_lines(path / "clients.jsonl")] == [1, 1]


def test_checkpoints_are_found_again_the_newest_first_and_only_so_many_are_kept(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        for number in (1, 2, 3):
            directory.save_checkpoint(
                number, {"params": torch.tensor([float(number)])}, {"round": str(number)}
            )
        found = list(read_checkpoints(path))
    assert [metadata for _, metadata in found] == [{"round": "3"}, {"round": "2"}]
    assert [tensors["params"].tolist() for tensors, _ in found] == [[3.0], [2.0]]


@pytest.mark.parametrize("place", [-1, 40])
def test_a_checkpoint_with_one_flipped_byte_is_passed_over(path, place):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        for number in (1, 2):
            directory.save_checkpoint(number, {"params": torch.ones(4)}, {"round": str(number)})
        newest = path / "checkpoints" / "round-000002.safetensors"
        data = bytearray(newest.read_bytes())
        data[place] ^= 1
        newest.write_bytes(data)
        assert [metadata["round"] for _, metadata in read_checkpoints(path)] == ["1"]


def test_the_final_model_finishes_the_run(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.save_model({"weight": torch.ones(2)})
        assert directory.finished


def test_a_directory_that_holds_a_run_is_not_taken_for_another(path):
    RunDirectory.create(path, EXPERIMENT, ENVIRONMENT).close()
    with pytest.raises(RunDirectoryError, match="already holds a run; go on with it by"):
        RunDirectory.create(path, EXPERIMENT, ENVIRONMENT)


def test_a_run_is_open_in_one_place_only(path):
    first = RunDirectory.create(path, EXPERIMENT, ENVIRONMENT)
    with pytest.raises(RunDirectoryError, match="in use by another process"):
        RunDirectory.open(path)
    first.close()
    RunDirectory.open(path).close()


# ---- lines that a power cut has lost


def cut(path, lines: int) -> None:
    """Leave so many lines in clients.jsonl, and half of the next."""
    file = path / "clients.jsonl"
    whole = file.read_bytes().splitlines(keepends=True)
    left = whole[lines][:20] if lines < len(whole) else b""
    file.write_bytes(b"".join(whole[:lines]) + left)


def rounds_of(path, name: str) -> list[int]:
    return [line["round"] for line in read_lines(path / name)]


@pytest.mark.parametrize(
    ("left", "whole"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)]
)
def test_a_round_whose_clients_were_lost_is_not_recorded(path, left, whole):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        for number in (1, 2, 3):
            directory.add_round(report(number, f"hash {number}"))
    cut(path, left)
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {n: f"hash {n}" for n in range(1, whole + 1)}
        assert rounds_of(path, "metrics.jsonl") == list(range(1, whole + 1))
        assert rounds_of(path, "clients.jsonl") == [n for n in range(1, whole + 1) for _ in "ab"]
        for number in range(whole + 1, 4):
            directory.add_round(report(number, f"hash {number}"))
    assert rounds_of(path, "clients.jsonl") == [1, 1, 2, 2, 3, 3]
    assert rounds_of(path, "metrics.jsonl") == [1, 2, 3]


def test_clients_whose_evaluation_failed_have_lines_too(path):
    judged = ClientRecord(round=1, client=7, status="failed", stage="evaluate", reason="no")
    one = report(1)
    record = replace(one.record, clients={"asked": 3, "answered": 2, "failures": 1})
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(replace(one, record=record, clients=(*one.clients, judged)))
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {1: "a"}
    cut(path, 2)
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {}


@pytest.mark.parametrize("kind", ["centralised", "all-reduce"])
def test_topologies_without_lines_about_clients_lack_none(path, kind):
    experiment = EXPERIMENT.model_copy(update={"topology": TopologyConfig(kind=kind)})
    with RunDirectory.create(path, experiment, ENVIRONMENT) as directory:
        directory.add_round(replace(report(1), clients=()))
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {1: "a"}


def test_a_finished_run_is_left_as_it_is(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(report(1))
        directory.save_model({"w": torch.zeros(1)})
    (path / "clients.jsonl").unlink()
    with RunDirectory.open(path) as directory:
        assert directory.hashes == {1: "a"}
    assert rounds_of(path, "metrics.jsonl") == [1]


# ---- keys of noise


def test_a_rounds_key_is_drawn_once_and_found_again(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        first, second, clients = (directory.secret(number) for number in (1, 2, 0))
        assert directory.secret(1) == first
    with RunDirectory.open(path) as directory:
        assert [directory.secret(number) for number in (0, 1, 2)] == [clients, first, second]
    assert len({first, second, clients}) == 3
    assert read_secrets(path) == {1: first, 2: second, 0: clients}


def test_keys_are_on_disk_before_they_are_used(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda _file: synced.append(read_secrets(path)))
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        synced.clear()
        key = directory.secret(1)
    assert synced[0] == {1: key}


def test_only_the_owner_may_read_keys(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.secret(1)
    assert (path / "secrets.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_noise_was_drawn_for_is_on_disk_and_found_again(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda _file: synced.append(read_bound(path)))
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        key = directory.secret(1)
        synced.clear()
        directory.bind_noise(1, "aa")
        assert synced[0] == {1: "aa"}
        synced.clear()
        directory.bind_noise(1, "aa")
        assert synced == []
    with RunDirectory.open(path) as directory:
        directory.bind_noise(1, "aa")
        directory.bind_noise(2, "bb")
        with pytest.raises(RunFailed, match="round 1 was computed again and its updates add up to"):
            directory.bind_noise(1, "cc")
        assert directory.secret(1) == key
    assert read_bound(path) == {1: "aa", 2: "bb"}
    assert read_secrets(path) == {1: key}
    assert (path / "secrets.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_run_without_noise_has_no_keys(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.add_round(report(1))
    assert not (path / "secrets.jsonl").exists()


@pytest.mark.parametrize("left", [1, 20, 83])
def test_half_a_key_was_never_used_and_is_cut_off(path, left):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        first = directory.secret(1)
        directory.secret(2)
    file = path / "secrets.jsonl"
    whole, torn = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(whole + torn[:left])
    with RunDirectory.open(path) as directory:
        assert file.read_bytes() == whole
        assert directory.secret(1) == first
        directory.secret(2)
    assert read_secrets(path).keys() == {1, 2}


def test_a_damaged_key_is_named_and_the_directory_is_free_again(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        directory.secret(1)
    file = path / "secrets.jsonl"
    good = file.read_bytes()
    file.write_bytes(good.replace(b"key", b"kei"))
    with pytest.raises(RunDirectoryError, match=r"secrets.jsonl is damaged in line 1; restore it"):
        RunDirectory.open(path)
    file.write_bytes(good)
    RunDirectory.open(path).close()


def test_a_key_of_a_recorded_round_that_is_gone_is_not_drawn_again(path):
    with RunDirectory.create(path, EXPERIMENT, ENVIRONMENT) as directory:
        first = directory.secret(1)
        directory.add_round(report(1))
    (path / "secrets.jsonl").unlink()
    with RunDirectory.open(path) as directory:
        with pytest.raises(RunDirectoryError, match=r"lacks the key of round 1, which is recorded"):
            directory.secret(1)
        with pytest.raises(RunDirectoryError, match="lacks the key of round 0"):
            directory.secret(0)
        assert directory.secret(2) != first
