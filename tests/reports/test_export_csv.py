"""Tidy tables: a row for each round, and one for each client in each round."""

import csv
from pathlib import Path

from roundel.reports.export_csv import export_csv
from roundel.reports.exported import exported
from tests.reports.made_exports import made, made_comparison
from tests.reports.made_runs import make_run, record


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rounds_have_a_row_each_with_all_single_values(tmp_path):
    confusion = [[1, 0], [0, 1]]
    clients = {"asked": 4, "accuracy": {"p10": 0.25}}
    make_run(
        tmp_path / "run",
        record(1),
        record(2, clients=clients, confusion=confusion, train_loss=None),
    )
    export_csv(exported([tmp_path / "run"]), tmp_path)
    first, second = rows(tmp_path / "rounds.csv")
    assert [first[key] for key in ("run", "strategy", "seed", "round")] == [
        "run",
        "fedavg",
        "0",
        "1",
    ]
    assert (first["accuracy"], second["accuracy"]) == ("0.1", "0.2")
    assert (first["train_loss"], second["train_loss"]) == ("0.75", "")
    assert (first["clients.accuracy.p10"], second["clients.accuracy.p10"]) == ("", "0.25")
    assert second["params_sha256"] == f"{2:064x}"
    assert "confusion" not in second


def test_clients_have_a_row_in_each_round(tmp_path):
    export_csv(exported([made(tmp_path / "run")]), tmp_path)
    first, second = rows(tmp_path / "clients.csv")
    assert (first["client"], first["status"], first["num_examples"]) == ("3", "accepted", "10")
    assert (second["client"], second["reason"]) == ("7", "ValueError: no, thanks")
    assert second["num_examples"] == ""


def test_runs_of_a_comparison_say_which_they_are(tmp_path):
    path = made_comparison(tmp_path / "both")
    export_csv(exported([path]), tmp_path)
    keys = ("group", "arm", "strategy", "seed", "round")
    assert [[row[key] for key in keys] for row in rows(tmp_path / "rounds.csv")] == [
        ["both", arm, strategy, seed, number]
        for arm, strategy, seed in (
            ("fedavg", "fedavg", "0"),
            ("fedprox mu=0.1", "fedprox", "0"),
            ("fedavg", "fedavg", "1"),
        )
        for number in ("1", "2")
    ]


def test_a_run_without_rounds_is_a_table_without_rows(tmp_path):
    make_run(tmp_path / "run", finished=False)
    export_csv(exported([tmp_path / "run"]), tmp_path)
    assert (tmp_path / "rounds.csv").read_text() == "run,group,problem,arm,strategy,seed\n"
    assert rows(tmp_path / "clients.csv") == []
