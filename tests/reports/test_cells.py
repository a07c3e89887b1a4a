"""A run is read down to what a comparison needs; null is told from what was not measured."""

from math import nan
from pathlib import Path
from typing import Any

import pytest

from roundel.core.comparison import Cell
from roundel.core.records import ClientRecord
from roundel.reports.cells import CellRun, measured, read_cell
from tests.reports.made_cells import comparison
from tests.reports.made_runs import make_run, record

CELL: Cell = next(comparison("fedavg").cells())
KEYS = ("accuracy", "loss", "clients.accuracy.p10")


def read(directory: Path) -> CellRun:
    return read_cell(directory, CELL, KEYS, 0.05)


def made(directory: Path, *records: Any, **more: Any) -> CellRun:
    make_run(directory / CELL.path, *records, **more)
    return read(directory)


def client(round: int, number: int, **changes: Any) -> ClientRecord:
    values: dict[str, Any] = {"status": "accepted", "num_steps": 4}
    return ClientRecord(round=round, client=number, **(values | changes))


def test_a_finished_run_becomes_series(tmp_path: Path) -> None:
    clients = {"accuracy": {"mean": 0.5, "p10": 0.25}}
    run = made(tmp_path, record(1), record(2, clients=clients))
    assert (run.state, run.why, run.diverged, run.small) == ("finished", "", False, False)
    assert run.series == {
        "accuracy": (0.1, 0.2),
        "loss": (1.0, 0.5),
        "clients.accuracy.p10": (None, 0.25),
    }
    assert (run.rounds, run.bytes, run.seconds) == ((1.0, 2.0), (3000.0, 6000.0), (0.5, 1.0))


def test_what_has_not_begun_or_not_ended_is_unfinished(tmp_path: Path) -> None:
    assert read(tmp_path).state == "unfinished"
    assert made(tmp_path, record(1), finished=False).state == "unfinished"


def test_what_failed_says_why_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / CELL.path
    make_run(path, record(1), finished=False)
    (path / "failed.txt").write_text("round 2 has 0 updates\nand more\n")
    assert (read(tmp_path).state, read(tmp_path).why) == ("failed", "round 2 has 0 updates")


def test_what_failed_before_it_was_a_run_says_why(tmp_path: Path) -> None:
    path = tmp_path / CELL.path
    path.mkdir(parents=True)
    (path / "failed.txt").write_text("no data\n")
    assert (read(tmp_path).state, read(tmp_path).why) == ("failed", "no data")


def test_a_damaged_run_has_failed(tmp_path: Path) -> None:
    made(tmp_path, record(1))
    (tmp_path / CELL.path / "environment.json").write_text("{")
    assert read(tmp_path).state == "failed"
    assert "is damaged" in read(tmp_path).why


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ({"loss": 0.5, "accuracy": 0.1}, "loss", 0.5),
        ({"loss": None, "accuracy": 0.1}, "loss", nan),
        ({"loss": None, "accuracy": None}, "loss", None),
        ({"loss": 0.5, "accuracy": None}, "accuracy", None),
        ({"loss": None, "accuracy": None, "mae": None}, "mae", nan),
        ({"loss": None, "accuracy": None, "mae": None}, "loss", nan),
        ({"loss": 0.5, "accuracy": 0.1}, "mae", None),
        ({"clients": {"loss": {"p90": None}}}, "clients.loss.p90", nan),
        ({"clients": {"loss": {"mean": 1.0}}}, "clients.loss.p90", None),
        ({"clients": {"loss": 3.0}}, "clients.loss.p90", None),
        ({"health": {"clipped": None}}, "health.clipped", None),
        ({}, "clients.loss.p90", None),
    ],
)
def test_null_is_told_from_what_was_not_measured(
    line: dict[str, Any], key: str, expected: float | None
) -> None:
    assert measured(line, key) == pytest.approx(expected, nan_ok=True)


def test_a_run_whose_last_loss_is_not_finite_has_diverged(tmp_path: Path) -> None:
    run = made(tmp_path, record(1), record(2, metrics={"loss": nan, "accuracy": 0.1}))
    assert run.diverged
    assert run.series["loss"] == (1.0, pytest.approx(nan, nan_ok=True))


def test_a_run_whose_last_loss_of_training_is_not_finite_has_diverged(tmp_path: Path) -> None:
    assert made(tmp_path, record(1), record(2, train_loss=nan)).diverged


def test_a_run_that_came_back_or_never_measured_a_loss_has_not(tmp_path: Path) -> None:
    back = made(tmp_path / "a", record(1, metrics={"loss": nan, "accuracy": 0.1}), record(2))
    without = made(tmp_path / "b", record(1, metrics={}, train_loss=None))
    assert not back.diverged
    assert not without.diverged


def test_clients_without_figures_of_their_own_are_noticed(tmp_path: Path) -> None:
    clients = {"small": 5, "accuracy": {"mean": 0.5}}
    assert made(tmp_path, record(1, clients=clients)).small


def test_what_seeds_share_is_told_by_the_clients_lines(tmp_path: Path) -> None:
    rounds = [record(1), record(2)]
    one = [client(1, 3), client(1, 5, num_steps=8), client(2, 4)]
    lost = [client(1, 5, num_steps=8), client(1, 3, status="lost", num_steps=None), client(2, 4)]
    failed = client(2, 9, status="failed", stage="evaluate")
    first = made(tmp_path / "a", *rounds, clients=one, model_blake3="m").shared
    second = made(tmp_path / "b", *rounds, clients=[*lost, failed], model_blake3="m").shared
    assert first.model == second.model == "m"
    assert first.partition is None
    assert first.cohorts == second.cohorts
    assert len(first.cohorts) == 2
    assert first.answered[0] != second.answered[0]
    assert first.steps[1] == second.steps[1]
    assert (first.work, second.work) == (16 / 3, 6.0)
