"""One run in detail."""

import json

import pytest

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.errors import RunDirectoryError
from roundel.core.files import json_line
from roundel.core.records import ClientRecord
from roundel.reports.details import (
    changed_settings,
    classes,
    curve,
    details,
    failures,
    files,
    partition,
    round_clients,
)
from tests.reports.made_runs import make_run, record


def test_only_settings_that_differ_from_the_defaults_are_told():
    experiment = load_experiment(None, ["client.lr=0.05", "rounds=50", "strategy.mu=0.1"])
    assert changed_settings(experiment) == {"client.lr": 0.05, "strategy.mu": 0.1}
    assert changed_settings(Experiment()) == {}


def test_the_curve_is_of_accuracy_and_the_first_of_equal_rounds_is_the_best():
    rounds = [{"accuracy": a, "loss": 1.0} for a in (0.5, 0.75, None, 0.75)]
    assert curve(rounds) == {
        "metric": "accuracy",
        "values": [0.5, 0.75, None, 0.75],
        "best": {"round": 2, "value": 0.75},
    }


@pytest.mark.parametrize("metric", ["loss", "train_loss"])
def test_without_accuracy_the_curve_is_of_a_loss_and_the_smallest_is_the_best(metric):
    found = curve([{"accuracy": None, metric: value} for value in (3.0, 1.0, 2.0)])
    assert found == {
        "metric": metric,
        "values": [3.0, 1.0, 2.0],
        "best": {"round": 2, "value": 1.0},
    }


def test_without_any_figure_there_is_no_curve():
    assert curve([]) is None
    assert curve([{"round": 1, "loss": None}]) is None


def test_precision_and_recall_are_counted_by_class():
    # 3 of class 0: 2 right, 1 taken for 1. 4 of class 1: 1 right, 3 taken for 0. None of class 2.
    assert classes([[2, 1, 0], [3, 1, 0], [0, 0, 0]]) == [
        {"class": 0, "examples": 3, "precision": 2 / 5, "recall": 2 / 3, "taken_for": 1},
        {"class": 1, "examples": 4, "precision": 1 / 2, "recall": 1 / 4, "taken_for": 0},
        {"class": 2, "examples": 0, "precision": None, "recall": None, "taken_for": None},
    ]


@pytest.mark.parametrize("confusion", [None, [], "text", [[1, 2]], [[1, 2], [3, None]]])
def test_what_is_no_matrix_of_counts_says_nothing_about_classes(confusion):
    assert classes(confusion) == []


def test_the_statistics_of_the_partition_are_read_if_there_are_any(tmp_path):
    assert partition(tmp_path) is None
    (tmp_path / "partition.json").write_text('{"kind": "iid", "clients": 4}')
    assert partition(tmp_path) == {"kind": "iid", "clients": 4}


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_damaged_statistics_of_the_partition_are_one_sentence(tmp_path, content):
    (tmp_path / "partition.json").write_text(content, encoding="latin-1")
    with pytest.raises(RunDirectoryError, match=r"partition\.json is damaged; restore it"):
        partition(tmp_path)


def failed(round: int, client: int, reason: str, location: str = "") -> ClientRecord:
    status = "failed" if location else "rejected"
    return ClientRecord(round=round, client=client, status=status, reason=reason, location=location)


def test_failures_in_the_same_line_are_one_kind_whatever_they_say(tmp_path):
    clients = [
        ClientRecord(round=1, client=1, status="accepted"),
        failed(1, 4, "it diverged"),
        failed(1, 2, "ValueError: pixel 17", "mine.py:3"),
        failed(2, 5, "ValueError: pixel 99", "mine.py:3"),
    ]
    history = make_run(tmp_path / "run", record(1), record(2), clients=clients)
    broken, refused = failures(history)
    assert broken == {
        "status": "failed",
        "count": 2,
        "reason": "ValueError: pixel 17",
        "location": "mine.py:3",
        "round": 1,
        "client": 2,
    }
    assert (refused["status"], refused["count"], refused["client"]) == ("rejected", 1, 4)
    assert (refused["reason"], refused["location"]) == ("it diverged", None)


def test_the_clients_of_a_round_come_by_number(tmp_path):
    clients = [failed(1, 9, "late"), failed(2, 7, "late"), failed(2, 3, "late")]
    history = make_run(tmp_path / "run", record(1), record(2), clients=clients)
    assert [line["client"] for line in round_clients(history, 2)] == [3, 7]


def test_a_round_that_was_not_run_is_one_sentence_with_those_that_were(tmp_path):
    history = make_run(tmp_path / "run", record(1), record(2))
    with pytest.raises(RunDirectoryError, match="no clients of round 3; choose one from 1 to 2"):
        round_clients(history, 3)
    empty = make_run(tmp_path / "empty", finished=False)
    with pytest.raises(RunDirectoryError, match="none of its rounds has finished"):
        round_clients(empty, 1)


def test_files_are_listed_with_their_bytes_and_a_folder_with_those_of_all_in_it(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name, size in (("checkpoints/a", 3), ("checkpoints/b", 4), ("config.toml", 5), (".x", 6)):
        (tmp_path / name).write_bytes(b"-" * size)
    assert files(tmp_path) == {"checkpoints/": 7, "config.toml": 5}


def test_everything_about_a_run_is_one_json_object(tmp_path):
    last = record(
        2,
        stopped="no better for 5 rounds",
        confusion=[[1, 0], [0, 1]],
        health={"rejected": 1},
        clients={"asked": 3, "accuracy": {"mean": 0.5}},
    )
    history = make_run(tmp_path / "run", record(1), last, settings=["name=mine", "rounds=9"])
    found = details(history)
    assert json.loads(json_line(found)) == found
    assert (found["name"], found["state"], found["stopped"]) == (
        "mine",
        "finished",
        "no better for 5 rounds",
    )
    assert found["rounds"] == {"done": 2, "of": 9}
    assert found["final"] == {"accuracy": 0.2, "loss": 0.5}
    assert found["clients"] == {"round": 2, "asked": 3, "accuracy": {"mean": 0.5}}
    assert found["health"] == {"rejected": 1}
    assert [line["recall"] for line in found["classes"]] == [1.0, 1.0]
    assert found["settings"] == {"name": "mine", "rounds": 9}
    assert found["seconds"] == 1.0


def test_a_run_that_has_only_begun_has_details_too(tmp_path):
    found = details(make_run(tmp_path / "run", finished=False))
    assert (found["state"], found["final"], found["curve"]) == ("unfinished", {}, None)
    assert (found["clients"], found["health"], found["classes"], found["failures"]) == (
        *(None, None),
        *([], []),
    )
