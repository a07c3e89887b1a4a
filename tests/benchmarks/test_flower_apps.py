"""What `benchmarks/flower_apps.py` measures, and what it makes of it."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def flower_apps(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("flower_apps")


def outcome(flower_apps, seconds, **changes):
    measured = {"round_seconds": seconds, "cold_start_s": 2.0, "peak_rss_mb": 300.0}
    return flower_apps.Outcome(**{**measured, "weights": None, **changes})


def test_both_take_turns_after_what_they_learn_was_compared(flower_apps, monkeypatch):
    monkeypatch.setattr(flower_apps, "cores", lambda: 2)
    turns = []
    seconds = {"roundel": [(0.1, 0.3), (0.2,)], "flower": [(1.0,), (1.0, 2.0)]}
    cold = {"roundel": [1.0, 3.0], "flower": [9.0, 11.0]}

    def run(contender, workload, rounds):
        turns.append((contender, workload.cohort, rounds))
        if rounds == 0:
            return outcome(flower_apps, (), weights=np.zeros((2, 3), np.float32))
        return outcome(flower_apps, seconds[contender].pop(0), cold_start_s=cold[contender].pop(0))

    bench = SimpleNamespace(run=run, rounds=4, repeats=2)
    rows = flower_apps.measure(bench, flower_apps.workload_of(7), ["roundel", "flower"])
    both = [("roundel", 7), ("flower", 7)]
    assert turns == [(*each, rounds) for rounds in (0, 4, 4) for each in both]
    assert rows[0] == {
        "contender": "roundel",
        "clients": 7,
        "workers": 2,
        "seconds_per_round": 0.2,
        "cold_start_s": 2.0,
        "peak_rss_mb": 300.0,
    }
    ours, theirs = flower_apps.with_ratios(rows)
    assert (ours["times_faster"], ours["times_faster_cold"]) == (5.0, 5.0)
    assert (theirs["times_faster"], theirs["times_faster_cold"]) == (1.0, 1.0)
    assert flower_apps.table([ours]).splitlines()[1].split() == [
        *("roundel", "7", "0.2000", "5.0", "2.00", "5.0", "300")
    ]


def test_who_learns_something_else_is_not_measured(flower_apps):
    learned = {"roundel": np.zeros(3, np.float32), "flower": np.ones(3, np.float32)}

    def run(contender, workload, rounds):
        assert rounds == 0
        weights = np.stack([np.full(3, -1, np.float32), learned[contender]])
        return outcome(flower_apps, (), weights=weights)

    bench = SimpleNamespace(run=run, rounds=1, repeats=1)
    with pytest.raises(flower_apps.ContenderFailed, match="other work"):
        flower_apps.measure(bench, flower_apps.workload_of(7), ["roundel", "flower"])


def test_without_flower_there_are_no_ratios_and_the_command_ends_with_1(
    flower_apps, monkeypatch, capsys
):
    monkeypatch.setattr(flower_apps, "has_flower", lambda python: False)
    monkeypatch.setattr(flower_apps, "measure", lambda bench, workload, contenders: [])
    monkeypatch.setattr(flower_apps, "end_with_contenders", lambda: None)
    monkeypatch.setattr(sys, "argv", ["flower_apps.py", "--clients", "7"])
    with pytest.raises(SystemExit) as ended:
        flower_apps.main()
    assert ended.value.code == 1
    assert "flower is left out" in capsys.readouterr().err


@pytest.mark.slow
def test_our_side_runs_the_app_and_answers(flower_apps):
    bench = flower_apps.Bench(rounds=1, repeats=1, flower_python=sys.executable)
    ended = bench.run("roundel", flower_apps.workload_of(4), 1)
    assert len(ended.round_seconds) == 1
    assert 0 < ended.round_seconds[0] < ended.cold_start_s
