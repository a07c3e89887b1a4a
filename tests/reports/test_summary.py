"""A run in a few lines of text."""

from pathlib import Path
from typing import Any

import pytest

from roundel.core.config import Experiment
from roundel.core.history import History
from roundel.core.records import RoundRecord
from roundel.reports.summary import byte_count, round_line, summary

RECORD = RoundRecord(
    round=3,
    metrics={"loss": 1.25, "accuracy": 0.5},
    train_loss=0.75,
    cohort=20,
    completed=18,
    failures=2,
    bytes_up=1_000_000,
    bytes_down=2_000_000,
    seconds=0.125,
    params_sha256="00" * 32,
)


def line(**changes: Any) -> dict[str, Any]:
    return RECORD.line() | changes


def history(*rounds: dict[str, Any]) -> History:
    return History(path=Path("runs/r"), experiment=Experiment(), environment={}, rounds=rounds)


def test_a_round_is_one_line_with_its_figures_in_alphabetical_order():
    assert round_line(RECORD, 50) == (
        "round 3/50  accuracy 0.5000  loss 1.2500  train_loss 0.7500  clients 18/20  3.0 MB  0.12 s"
    )


def test_a_round_that_was_not_evaluated_has_no_figures_of_the_test_set():
    record = RoundRecord(**{**vars(RECORD), "metrics": {}, "train_loss": None})
    assert round_line(record, 50) == "round 3/50  clients 18/20  3.0 MB  0.12 s"


def test_the_summary_says_how_it_ended_how_long_it_took_and_where_it_is():
    assert summary(history(line(failures=0), line(failures=0))).splitlines() == [
        "accuracy 0.5000, loss 1.2500 after 3 rounds, 0.2 s",
        "results are in runs/r",
    ]


def test_the_summary_counts_the_updates_of_all_rounds_that_did_not_count():
    text = summary(history(line(), line()))
    assert "4 client updates did not count; clients.jsonl says why" in text.splitlines()


def test_the_summary_tells_how_clients_fare_when_the_last_round_asked_them():
    spread = {"mean": 0.625, "p10": 0.25, "p50": 0.75, "p90": 1.0, "lowest_tenth": 0.125}
    clients = {"asked": 10, "answered": 9, "accuracy": spread}
    text = summary(history(line(clients=clients)))
    assert (
        "clients' own test examples: accuracy 0.6250 over all, p10 0.25, median 0.75, p90 1.00 "
        "over 9 clients"
    ) in text.splitlines()


def test_a_task_without_accuracy_is_summed_up_without_it():
    assert summary(history(line(accuracy=None))).startswith("loss 1.2500 after 3 rounds")
    assert summary(history(line(accuracy=None, loss=None))).startswith("done after 3 rounds")


def test_a_run_without_rounds_has_a_summary_too():
    assert summary(history()) == "no round has finished; the run is in runs/r"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_900, "999.9 kB"),
        (999_999, "1.0 MB"),
        (1_000_000, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (3 * 10**12, "3.0 TB"),
        (4 * 10**15, "4000.0 TB"),
    ],
)
def test_bytes_are_counted_in_decimal_units(count, text):
    assert byte_count(count) == text
