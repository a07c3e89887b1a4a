"""What should be the same is compared, and what was not is said."""

from dataclasses import replace

import pytest

from roundel.core.comparison import Comparison
from roundel.core.config import Experiment
from roundel.reports.arms import make_rows
from roundel.reports.cells import CellRun, Shared
from roundel.reports.fairness import notes
from tests.reports.made_cells import SHARED, but, comparison, run_with, runs_of

TWO = comparison("fedavg", "fedprox", seeds="5")
RUNS = runs_of(TWO, lambda _arm, seed: run_with({"accuracy": [0.5, 0.6 + seed / 100]}))
FAIR = (
    "with the same seed all arms had the same partition, first model, cohorts, dropouts and local "
    "steps, as their files show"
)


def said(comparison: Comparison, runs: list[CellRun]) -> list[str]:
    return list(notes(comparison, runs, make_rows(comparison, runs)))


def changed(shared: Shared) -> list[str]:
    """What is said if one of fedprox's runs has something else."""
    return said(TWO, but(RUNS, "fedprox", 2, shared=shared))


def test_a_fair_comparison_says_so_and_nothing_else() -> None:
    assert said(TWO, RUNS) == [FAIR]


@pytest.mark.parametrize(
    ("shared", "same", "sentence"),
    [
        (
            replace(SHARED, partition="q"),
            "first model, cohorts, dropouts and local steps",
            (
                "fedprox had another partition than fedavg with the same seed, so that it learned "
                "another problem"
            ),
        ),
        (
            replace(SHARED, model="n"),
            "partition, cohorts, dropouts and local steps",
            (
                "fedprox had another first model than fedavg with the same seed, so that a "
                "difference may be one of where it began"
            ),
        ),
        (
            replace(SHARED, cohorts=["a", "c"], answered=["a", "c"]),
            "partition and first model",
            (
                "fedprox had other cohorts than fedavg with the same seed: what chooses the "
                "clients is a part of what is compared"
            ),
        ),
        (
            replace(SHARED, answered=["a", "c"], steps=["5", "6"]),
            "partition, first model and cohorts",
            (
                "fedprox had other dropouts than fedavg with the same seed, although the same "
                "clients were asked"
            ),
        ),
    ],
)
def test_what_differs_is_named(shared: Shared, same: str, sentence: str) -> None:
    assert changed(shared) == [
        f"with the same seed all arms had the same {same}, as their files show",
        sentence,
    ]


def test_rounds_after_the_end_of_a_shorter_run_do_not_differ() -> None:
    short = replace(SHARED, cohorts=["a"], answered=["a"], steps=["5"])
    assert changed(short) == [FAIR]


def test_what_was_not_recorded_is_not_claimed() -> None:
    (same,) = changed(Shared(partition="p", work=5.0))
    assert same == "with the same seed all arms had the same partition, as their files show"


def test_unequal_local_work_is_pointed_out() -> None:
    runs = RUNS
    for seed in range(5):
        more = replace(SHARED, steps=["9", "9"], work=9.0)
        runs = but(runs, "fedprox", seed, shared=more)
    assert said(TWO, runs)[1:] == [
        (
            "fedprox had other local steps than fedavg with the same seed, although the same "
            "clients answered"
        ),
        (
            "local work is not equal: an update took so many steps in the mean: fedavg 5, fedprox "
            "9; a difference may be one of work"
        ),
    ]


def test_a_seed_that_is_missing_makes_no_work_unequal() -> None:
    larger = replace(SHARED, steps=["50", "50"], work=50.0)
    runs = [replace(run, shared=larger) if run.cell.seed == 4 else run for run in RUNS]
    *others, same = said(TWO, but(runs, "fedprox", 4, state="failed", why="broken"))[:2]
    assert same == FAIR
    assert not any("local work" in each for each in others)
    apart = but(runs, "fedprox", 2, shared=replace(SHARED, steps=["6", "6"]))
    told = said(TWO, but(apart, "fedprox", 4, state="failed", why="broken"))
    assert not any("local work" in each for each in told)


def test_runs_that_stopped_at_different_rounds_are_pointed_out() -> None:
    longer = run_with({"accuracy": [0.5, 0.6, 0.7]})
    assert said(TWO, but(RUNS, "fedprox", 2, **longer)) == [
        FAIR,
        (
            "runs with the same seed ended after different numbers of rounds: fedavg 2, fedprox "
            "2 to 3; a difference may be one of how long they learned"
        ),
    ]


def test_what_arms_share_is_said_of_those_that_finished() -> None:
    three = comparison("fedavg", "fedprox", "scaffold", seeds="5")
    lost = {"state": "failed", "why": "broken"}
    runs = runs_of(
        three, lambda arm, _seed: lost if arm == "scaffold" else run_with({"accuracy": [0.5]})
    )
    (sentence,) = [each for each in said(three, runs) if "as their files show" in each]
    assert sentence.startswith("with the same seed the arms that finished had the same partition")


def test_an_untuned_arm_next_to_a_tuned_one_is_pointed_out() -> None:
    tuned = comparison("fedavg", "fedprox mu=0.1 tuned=true", "scaffold", seeds="5")
    runs = runs_of(tuned, lambda _arm, _seed: run_with({"accuracy": [0.5]}))
    (sentence,) = [each for each in said(tuned, runs) if "tuned" in each]
    assert sentence.startswith("fedprox mu=0.1 is tuned and fedavg and scaffold are not")


@pytest.mark.parametrize(("seeds", "words"), [("1", "one seed cannot"), ("4", "4 seeds cannot")])
def test_too_few_seeds_are_pointed_out(seeds: str, words: str) -> None:
    few = comparison("fedavg", "fedprox", seeds=seeds)
    runs = runs_of(few, lambda _arm, _seed: run_with({"accuracy": [0.5]}))
    assert sum(each.startswith(words) and "--seeds 5" in each for each in said(few, runs)) == 1


def test_what_failed_diverged_or_is_to_run_is_counted() -> None:
    runs = but(RUNS, "fedprox", 1, state="failed", why="client 3 failed", series={})
    runs = but(runs, "fedprox", 2, state="failed", why="client 4 failed", series={})
    runs = but(but(runs, "fedprox", 3, diverged=True), "fedavg", 4, state="unfinished")
    assert said(TWO, runs)[:3] == [
        (
            "1 of 10 runs have not finished; all figures are of those that have, and nothing is "
            "tested where a seed is missing"
        ),
        "fedprox failed with seeds 1 and 2 and has no figure there: client 3 failed",
        (
            "fedprox diverged with seed 3 of 3: a loss was not finite at the end; figures that are "
            "finite count nevertheless"
        ),
    ]


def test_a_mean_over_some_of_the_seeds_is_pointed_out() -> None:
    runs = but(RUNS, "fedprox", 1, **run_with({"accuracy": [None, None]}))
    assert said(TWO, runs)[1] == (
        "fedprox has no finite accuracy with 1 of 5 seeds; its mean is over the others, which "
        "flatters it"
    )


def test_a_metric_that_nobody_measures_is_pointed_out() -> None:
    other = comparison("fedavg", seeds="2", metrics=["mae"])
    runs = runs_of(other, lambda _arm, _seed: run_with({"mae": [None]}))
    assert said(other, runs) == ["fedavg has no finite mae with any seed"]


def test_clients_too_small_for_figures_of_their_own_are_pointed_out() -> None:
    runs = but(RUNS, "fedavg", 0, small=True, experiment=Experiment())
    assert "evaluation.min_examples = 5" in said(TWO, runs)[1]


def test_different_software_is_pointed_out() -> None:
    runs = but(RUNS, "fedavg", 0, environment={"torch": "2.6.0"})
    assert said(TWO, runs)[1].startswith("runs were computed with different torch (2.13.0, 2.6.0)")
