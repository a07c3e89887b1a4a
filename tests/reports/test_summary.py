"""A run in a few lines of text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roundel.core.config import Experiment
from roundel.core.configfile import load_experiment
from roundel.core.history import History
from roundel.core.records import RoundRecord
from roundel.reports.summary import (
    byte_count,
    health_figures,
    privacy_figures,
    round_line,
    summary,
)

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
    health={"update_norm": {"p50": 0.25, "max": 0.5}, "clipped": None, "diverging": []},
)


def line(**changes: Any) -> dict[str, Any]:
    return RECORD.line() | changes


def history(*rounds: dict[str, Any]) -> History:
    return History(path=Path("runs/r"), experiment=Experiment(), environment={}, rounds=rounds)


def test_a_round_is_one_line_with_its_figures_in_alphabetical_order():
    assert round_line(RECORD, 50) == (
        "round 3/50  accuracy 0.5000  loss 1.2500  train_loss 0.7500  norm 0.25  clients 18/20"
        "  3.0 MB  0.12 s"
    )


def test_a_round_that_was_not_evaluated_has_no_figures_of_the_test_set():
    record = RoundRecord(**{**vars(RECORD), "metrics": {}, "train_loss": None})
    assert round_line(record, 50) == "round 3/50  norm 0.25  clients 18/20  3.0 MB  0.12 s"


def test_the_summary_says_how_it_ended_how_long_it_took_and_where_it_is():
    assert summary(history(line(failures=0), line(failures=0))).splitlines() == [
        "accuracy 0.5000, loss 1.2500 after 3 rounds, 0.2 s",
        "results are in runs/r",
    ]


def test_the_summary_counts_the_updates_of_all_rounds_that_did_not_count():
    text = summary(history(line(), line()))
    assert "4 client updates did not count; clients.jsonl says why" in text.splitlines()


def test_what_has_been_spent_of_privacy_is_told_each_round_and_at_the_end():
    record = RoundRecord(**{**vars(RECORD), "privacy": {"epsilon": 1.23456, "delta": 1e-5}})
    assert "  norm 0.25  epsilon 1.235  clients 18/20  " in round_line(record, 50)
    assert privacy_figures({}) == []
    text = summary(history(record.line())).splitlines()
    assert text[1] == "any one client is protected by epsilon = 1.235 at delta = 1e-05"
    assert not any("epsilon" in said for said in summary(history(line())).splitlines())


def test_precision_and_recall_are_in_the_file_and_not_in_the_line():
    metrics = {"accuracy": 0.5, "precision": 0.75, "recall": 0.25}
    record = RoundRecord(**{**vars(RECORD), "metrics": metrics})
    assert "accuracy 0.5000  train_loss" in round_line(record, 50)
    assert "precision" not in round_line(record, 50)


@pytest.mark.parametrize(
    ("health", "figures"),
    [
        ({}, []),
        ({"update_norm": None, "diverging": [], "lost": 2}, ["lost 2"]),
        (
            {"update_norm": {"p50": 0.1234567, "max": 0.5}, "clipped": 0.0, "failed": 0},
            ["norm 0.123"],
        ),
        (
            {
                "update_norm": {"p50": 2.0, "max": 25.0},
                "clipped": 0.5,
                "rejected": 1,
                "failed": 2,
                "lost": 3,
                "diverging": [4, 17],
            },
            [
                "norm 2",
                "diverging 4, 17 (norm 12 times the median)",
                "clipped 50%",
                "rejected 1",
                "failed 2",
                "lost 3",
            ],
        ),
        (
            {"update_norm": {"p50": 0.0, "max": 1.0}, "diverging": [3]},
            ["norm 0", "diverging 3 (norm inf times the median)"],
        ),
    ],
)
def test_the_health_of_a_round_is_its_norm_and_whatever_shows_trouble(health, figures):
    assert health_figures(health) == figures


def own_examples(**changes: Any) -> list[str]:
    spread = {"mean": 0.625, "p10": 0.25, "p50": 0.75, "p90": 1.0, "worst_tenth": 0.125}
    clients = {"asked": 10, "answered": 9, "examples": 80, "small": 0, "accuracy": spread}
    return summary(history(line(clients=clients | changes))).splitlines()


def test_the_summary_tells_how_clients_fare_when_the_last_round_asked_them():
    assert (
        "clients' own test examples: accuracy 0.6250 over all 80 of 9 clients; by client p10 0.25, "
        "median 0.75, p90 1.00, worst tenth 0.12"
    ) in own_examples()


def test_clients_that_are_judged_by_their_own_models_are_said_to_be():
    own = load_experiment(None, ["strategy.name=fedper"])
    clients = {"answered": 1, "examples": 8, "small": 0, "accuracy": {"mean": 0.5}}
    text = summary(replace(history(line(clients=clients)), experiment=own))
    assert "clients' own test examples, each client by its own model: accuracy 0.5000 over" in text


def test_it_says_how_many_clients_hold_too_few_examples_for_a_figure_of_their_own():
    (text,) = (said for said in own_examples(small=4) if said.startswith("clients' own"))
    assert text.endswith(
        "worst tenth 0.12 (4 hold too few for a figure of their own, see evaluation.min_examples)"
    )
    (text,) = (
        said
        for said in own_examples(small=9, accuracy={"mean": 0.625})
        if said.startswith("clients' own")
    )
    assert text == (
        "clients' own test examples: accuracy 0.6250 over all 80 of 9 clients (all hold too few "
        "for a figure of their own, see evaluation.min_examples)"
    )


def test_without_accuracy_clients_are_told_about_by_their_loss_and_without_figures_not_at_all():
    clients = {"asked": 2, "answered": 1, "examples": 8, "small": 0, "loss": {"mean": 2.0}}
    text = summary(history(line(clients=clients)))
    assert "clients' own test examples: loss 2.0000 over all 8 of 1 clients" in text.splitlines()
    nobody = {"asked": 2, "answered": 0, "examples": 0, "small": 0}
    assert "clients'" not in summary(history(line(clients=nobody)))


def test_the_summary_says_why_a_run_stopped_early():
    text = summary(history(line(stopped="accuracy = 0.9 reached the target of 0.9")))
    assert "stopped early: accuracy = 0.9 reached the target of 0.9" in text.splitlines()


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
