"""What `benchmarks/simulation.py` makes of what it has measured."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KEYS = {
    *("contender", "workload", "cohort", "workers", "executor", "seconds_per_round"),
    *("us_per_client_step", "peak_rss_mb", "cold_start_s"),
}


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("simulation")


def outcome(simulation, seconds, weights=None, **changes):
    measured = {"round_seconds": seconds, "cold_start_s": 2.0, "peak_rss_mb": 300.0}
    return simulation.Outcome(**{**measured, "weights": weights, **changes})


def test_a_row_is_the_median_of_all_rounds_and_the_peak_of_all_runs(simulation):
    contender = simulation.Contender(kind="vectorized", workers=2)
    runs = [
        outcome(simulation, (0.1, 0.2), peak_rss_mb=310.0, cold_start_s=1.0),
        outcome(simulation, (0.3,), peak_rss_mb=305.0, cold_start_s=3.0),
    ]
    row = simulation.row_of(simulation.WORKLOADS["w1-100"], contender, runs)
    assert row == {
        "contender": "roundel",
        "workload": "w1-100",
        "cohort": 100,
        "workers": 2,
        "executor": "vectorized",
        "seconds_per_round": 0.2,
        "us_per_client_step": 200.0,  # 0.2 s for 100 clients of 10 steps
        "peak_rss_mb": 310.0,
        "cold_start_s": 2.0,
    }
    assert row.keys() == KEYS


def test_a_table_divides_by_the_bare_loop_on_all_cores_and_by_flower(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "cores", lambda: 2)
    measured = {("bare", 1): 0.4, ("bare", 2): 0.2, ("loop", 1): 0.5, ("flower", 2): 2.0}
    rows = [
        simulation.row_of(
            simulation.WORKLOADS["w2"],
            simulation.Contender(kind=kind, workers=workers),
            [outcome(simulation, (seconds,))],
        )
        for (kind, workers), seconds in measured.items()
    ]
    ratios = [line.split()[-2:] for line in simulation.table(rows).splitlines()[1:]]
    assert ratios == [["2.00", "0.20"], ["1.00", "0.10"], ["2.50", "0.25"], ["10.00", "1.00"]]
    assert simulation.table(rows[2:3]).splitlines()[1].split()[-2:] == ["-", "-"]


def test_contenders_take_turns(simulation):
    turns = []

    def run(contender, workload, rounds):
        turns.append((contender.kind, rounds))
        return outcome(simulation, (0.1,))

    contenders = [simulation.Contender(kind=kind, workers=1) for kind in ("bare", "loop")]
    bench = SimpleNamespace(run=run, rounds=4, repeats=2)
    simulation.measure(bench, simulation.WORKLOADS["w2"], contenders)
    assert turns == [("bare", 4), ("loop", 4)] * 2


def test_who_does_other_work_or_fails_is_left_out_by_name(simulation):
    before, after = np.zeros(3, np.float32), np.ones(3, np.float32)
    learned = {"loop": after + np.float32(1e-4), "vectorized": after * np.float32("nan")}

    def run(contender, workload, rounds):
        assert rounds == 0
        if contender.kind == "auto":
            raise simulation.ContenderFailed("it ran out of luck")
        weights = np.stack([before, learned[contender.kind]])
        return outcome(simulation, (), weights)

    bench = SimpleNamespace(run=run, reference=lambda *_: np.stack([before, after]))
    contenders = [simulation.Contender(kind=kind, workers=1) for kind in simulation.EXECUTORS]
    fit, said = simulation.check_work(bench, simulation.WORKLOADS["w2"], contenders)
    assert [contender.kind for contender in fit] == ["loop"]
    assert said[0].startswith("same work: max difference 1.0e-04 between the parameters")
    assert said[1].startswith("left out: roundel, vectorized, workers: 1: other work: parameters")
    assert said[2] == "left out: roundel, auto, workers: 1: it ran out of luck"


def test_flower_is_left_out_with_one_line_where_it_is_missing(simulation, monkeypatch, capsys):
    monkeypatch.setattr(simulation, "has_flower", lambda python: False)
    given = simulation.parser().parse_args(["--contenders", "flower", "loop", "--workers", "1"])
    assert [contender.kind for contender in simulation.chosen(given)] == ["loop"]
    assert capsys.readouterr().err.startswith(f"# flower is left out: {sys.executable} has no flwr")


def test_flower_is_looked_for_in_the_interpreter_that_is_named(simulation, tmp_path):
    for name, code in {"with": 0, "without": 1}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o700)
    assert simulation.has_flower(str(tmp_path / "with"))
    assert not simulation.has_flower(str(tmp_path / "without"))
    assert not simulation.has_flower(str(tmp_path / "nowhere"))
