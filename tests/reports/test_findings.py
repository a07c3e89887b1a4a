"""What was found is said with its interval, and no more than that."""

from math import nan

from roundel.core.comparison import Comparison
from roundel.reports.arms import make_rows
from roundel.reports.cells import CellRun
from roundel.reports.findings import findings
from tests.reports.made_cells import accuracies, comparison, run_with, runs_of

FEDAVG = [0.80, 0.82, 0.78, 0.81, 0.79]
BETTER = [0.90, 0.93, 0.87, 0.91, 0.90]
LIKE_IT = [0.81, 0.81, 0.78, 0.80, 0.80]


def found(comparison: Comparison, runs: list[CellRun]) -> tuple[str, ...]:
    return findings(comparison, make_rows(comparison, runs))


def test_five_seeds_carry_a_verdict() -> None:
    three = comparison("fedavg", "scaffold", "fedprox", seeds="5")
    finals = {"fedavg": FEDAVG, "scaffold": BETTER, "fedprox": LIKE_IT}
    assert found(three, accuracies(three, finals)) == (
        (
            "scaffold is better than fedavg by 0.102 [0.092, 0.112] in accuracy (paired, 5 seeds, "
            "Holm p < 0.001)"
        ),
        (
            "fedprox cannot be told from fedavg in accuracy: 0.000 [-0.012, +0.012] (paired, 5 "
            "seeds, Holm p = 1.000)"
        ),
        "scaffold is better than each of the others in accuracy (95% over all pairs)",
    )


def test_three_seeds_say_what_their_interval_says() -> None:
    three = comparison("fedavg", "scaffold", "fedprox", seeds="3", baseline="scaffold")
    finals = {"fedavg": FEDAVG, "scaffold": BETTER, "fedprox": LIKE_IT}
    assert found(three, accuracies(three, finals)) == (
        "fedavg is behind scaffold by 0.100 [0.075, 0.125] in accuracy (paired, 3 seeds)",
        "fedprox is behind scaffold by 0.100 [0.057, 0.143] in accuracy (paired, 3 seeds)",
        "no arm is shown to be better in accuracy than each of the others",
    )


def test_a_smaller_loss_is_better() -> None:
    two = comparison("fedavg", "scaffold", seeds="2", metrics=["loss"])
    losses = {"fedavg": [1.0, 1.1], "scaffold": [0.5, 0.601]}
    runs = runs_of(two, lambda arm, seed: run_with({"loss": [losses[arm][seed]]}))
    assert found(two, runs)[0].startswith("scaffold is ahead of fedavg by 0.4995 [0.4931, 0.5059]")


def test_one_seed_shows_a_difference_and_nothing_more() -> None:
    two = comparison("fedavg", "fedprox", seeds="1")
    assert found(two, accuracies(two, {"fedavg": [0.5], "fedprox": [0.25]})) == (
        "fedprox differs from fedavg by -0.2500 in accuracy with the one seed that both have",
    )


def test_what_is_left_where_seeds_are_missing_shows_nothing() -> None:
    two = comparison("fedavg", "scaffold", seeds="5")
    finals = {"fedavg": FEDAVG, "scaffold": [*BETTER[:4], nan]}
    assert found(two, accuracies(two, finals)) == (
        (
            "scaffold differs from fedavg by +0.100 in accuracy over the seeds that both have a "
            "figure for (4 of 5); as long as others are missing, that shows nothing"
        ),
    )


def test_an_arm_against_itself_is_the_same() -> None:
    two = comparison("fedavg", "fedavg label=again", seeds="5")
    assert found(two, accuracies(two, {"fedavg": FEDAVG, "again": FEDAVG})) == (
        "again and fedavg have the same accuracy with each seed",
    )


def test_sentences_name_their_problem_if_there_are_several() -> None:
    two = comparison("fedavg", "fedprox", seeds="2", grid=["partition.alpha=0.1,1.0"])
    said = found(two, accuracies(two, {"fedavg": FEDAVG, "fedprox": LIKE_IT}))
    assert [sentence.split(":")[0] for sentence in said] == ["alpha=0.1", "alpha=1.0"]
