"""`roundel tune`: trials, their table, and the comparison of the best."""

import csv
import json

from roundel.core.comparisonfile import load_comparison
from tests.commands import call

TINY = (
    *("-s", "partition.clients=6", "-s", "cohort.size=3", "-s", "client.steps=1"),
    *("-s", "rounds=2", "-s", "partition.alpha=5", "--jobs", "1"),
)


def test_it_ends_with_a_table_the_best_and_the_command_that_compares_them(tmp_path):
    path = tmp_path / "it"
    words = ("fedavg client.lr=0.001,0.3", "fedprox mu=0.1,0.2", "--trials", "2", *TINY)
    ended = call("tune", *words, "--out", path)
    assert (ended.code, ended.err) == (0, "")
    assert "4 arms x 1 seed = 4 runs of 2 rounds" in ended.out
    assert "validation clients.accuracy.mean" in ended.out
    assert "note: fedavg: the best client.lr = " in ended.out
    assert ended.out.endswith(f"\n    roundel compare {path / 'tuned.toml'}\n")
    best = load_comparison(path / "tuned.toml")
    assert [(arm.label, arm.tuned) for arm in best.arms] == [("fedavg", True), ("fedprox", True)]
    with (path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["strategy"] for row in rows] == ["fedavg", "fedavg", "fedprox", "fedprox"]
    assert [json.loads(row["settings"]) for row in rows[:2]] == [
        {"client.lr": 0.001},
        {"client.lr": 0.3},
    ]
    for title in ("fedavg", "fedprox"):
        own = [row for row in rows if row["strategy"] == title]
        scores = [float(row["validation clients.accuracy.mean"]) for row in own]
        assert scores[[row["best"] for row in own].index("1")] == max(scores)
    again = call("tune", *words, "--out", path)
    assert "already finished: 4; to go: 0" in again.out
    assert again.out.splitlines()[-6:] == ended.out.splitlines()[-6:]


def test_budgets_that_would_differ_are_refused_with_one_sentence(workplace):
    ended = call("tune", "fedavg client.lr=0.1,0.2", "--trials", "3", *TINY)
    assert ended.code == 2
    assert ended.out == ""
    assert "fedavg has 2 configurations to try, and each strategy is to try 3" in ended.err
    assert list(workplace.iterdir()) == []


def test_the_same_directory_is_not_for_another_search(tmp_path):
    words = ("fedavg", "--trials", "2", *TINY, "--out", tmp_path / "it")
    assert call("tune", *words).code == 0
    ended = call("tune", *words, "--rounds", "1")
    assert ended.code == 2
    assert "holds another comparison: rounds is 2 there and 1 here" in ended.err
