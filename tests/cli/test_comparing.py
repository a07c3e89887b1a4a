"""What a comparison shows: the plan, how long it takes, and how each run ends."""

import pytest

from roundel.cli.comparing import duration, ended_line, estimate, plan_lines
from roundel.core.comparisonfile import Said, load_comparison
from roundel.simulations.cells import RoundDone, RunEnded
from roundel.simulations.compare import Shard, planned
from roundel.simulations.pace import Pace

SETTINGS = ("partition.clients=4", "cohort.size=2", "evaluation.clients=0")


def plan(tmp_path, *arms, shard=Shard(), grid=(), workers=2):  # noqa: B008 - it is frozen
    said = Said(arms=arms, settings=SETTINGS, grid=grid, seeds="2")
    return planned(load_comparison(None, said), tmp_path / "it", workers, shard)


def test_a_plan_says_what_is_run_and_draws_the_partition(tmp_path):
    lines = plan_lines(plan(tmp_path, "fedavg", "fedprox mu=0.1"), 100)
    assert lines[:6] == [
        "2 arms x 2 seeds = 4 runs of 50 rounds",
        "arms: fedavg (baseline), fedprox mu=0.1",
        "all with: partition.clients=4 size=2 evaluation.clients=0",
        "2 at a time; how long that takes is said after the first rounds",
        f"directory: {tmp_path / 'it'}",
        "",
    ]
    assert lines[6].startswith("partition with seed 0: dirichlet: 4 clients")


def test_a_plan_of_several_problems_draws_each(tmp_path):
    lines = plan_lines(plan(tmp_path, "fedavg", grid=["partition.alpha=0.1,9"]), 100)
    assert lines[0] == "2 problems x 1 arm x 2 seeds = 4 runs of 50 rounds"
    assert "problems: alpha=0.1; alpha=9" in lines
    heads = [line.partition(": dirichlet")[0] for line in lines if line.startswith("partition")]
    assert heads == ["partition with seed 0, alpha=0.1", "partition with seed 0, alpha=9"]


def test_a_shard_says_how_much_of_it_is_here(tmp_path):
    lines = plan_lines(plan(tmp_path, "fedavg", shard=Shard(number=1, of=2), workers=1), 100)
    assert "here: 1 run of this shard" in lines
    assert "one after another; how long that takes is said after the first rounds" in lines


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.1, "1 s"), (41.7, "42 s"), (119, "119 s"), (600, "10 min"), (9000, "2 h 30 min")],
)
def test_times_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said


def test_nothing_is_estimated_before_rounds_were_measured():
    pace = Pace([100], ["a"], workers=2)
    assert estimate(pace, 2) == ""
    for number in range(1, 6):
        pace.hear(RoundDone(job=0, round=number, seconds=2.0, metrics={}))
    assert estimate(pace, 2) == "about 3 min to go (2 s a round, 2 runs at a time)"
    assert estimate(pace, 1) == "about 3 min to go (2 s a round)"


def test_a_run_says_how_it_ended(tmp_path):
    cell = plan(tmp_path, "fedavg").cells[1]
    done = RunEnded(
        job=1, status="finished", seconds=2.04, rounds=50, metrics={"accuracy": 0.9, "loss": 0.25}
    )
    assert ended_line(cell, done) == (
        "fedavg, seed 1  accuracy 0.9000  loss 0.2500  50 rounds  2.0 s"
    )
    failed = RunEnded(job=1, status="failed", reason="no data")
    assert ended_line(cell, failed) == "fedavg, seed 1 failed: no data"
    away = RunEnded(job=1, status="elsewhere")
    assert ended_line(cell, away) == "fedavg, seed 1 is being computed by another process"
