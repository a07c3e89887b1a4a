"""Rows count every seed, compare seed by seed, and name a best arm only if it is shown."""

from math import nan

import pytest

from roundel.reports.arms import make_rows
from tests.reports.made_cells import accuracies, but, comparison, run_with, runs_of

FEDAVG = [0.80, 0.82, 0.78, 0.81, 0.79]
BETTER = [0.90, 0.93, 0.87, 0.91, 0.90]
LIKE_IT = [0.81, 0.81, 0.78, 0.80, 0.80]
THREE = comparison("fedavg", "scaffold", "fedprox", seeds="5")
FINALS = {"fedavg": FEDAVG, "scaffold": BETTER, "fedprox": LIKE_IT}


def test_a_row_has_the_mean_of_its_seeds_and_the_difference_from_the_baseline() -> None:
    fedavg, scaffold, _ = make_rows(THREE, accuracies(THREE, FINALS))
    assert (fedavg.baseline, fedavg.versus["accuracy"], fedavg.seeds) == (True, None, 5)
    assert fedavg.figures["accuracy"] is not None
    assert fedavg.figures["accuracy"].mean == pytest.approx(0.8)
    found = scaffold.versus["accuracy"]
    assert found is not None
    assert found.paired.difference.mean == pytest.approx(0.102)  # 10, 11, 9, 10 and 11 points
    assert scaffold.finals["accuracy"] == dict(enumerate(BETTER))


def test_the_p_values_of_all_pairs_and_problems_are_one_family() -> None:
    two = comparison("fedavg", "scaffold", "fedprox", seeds="5", grid=["partition.alpha=0.1,1.0"])
    rows = make_rows(two, accuracies(two, FINALS))
    ps = [found.paired.p for row in rows if (found := row.versus["accuracy"])]
    corrected = [found.holm for row in rows if (found := row.versus["accuracy"])]
    small, large = ps[0], ps[1]
    assert small is not None
    assert large is not None
    # Twice the same two: the small ones are first and times 4, the large ones are times 2.
    assert corrected == pytest.approx([4 * small, min(1, 2 * large)] * 2)


def test_a_seed_without_a_figure_takes_the_p_value_away_and_stays_in_the_family() -> None:
    runs = but(accuracies(THREE, FINALS), "fedprox", 3, state="failed", why="broken")
    _, scaffold, fedprox = make_rows(THREE, runs)
    assert (fedprox.seeds, fedprox.failed) == (4, {3: "broken"})
    lost, kept = fedprox.versus["accuracy"], scaffold.versus["accuracy"]
    assert lost is not None
    assert kept is not None
    assert (lost.paired.p, lost.paired.resampled, lost.holm) == (None, None, None)
    assert lost.paired.difference.count == 4
    assert kept.paired.p is not None
    assert kept.holm == pytest.approx(2 * kept.paired.p)


def test_seeds_that_are_still_to_run_are_named() -> None:
    finals = {**FINALS, "fedprox": [0.8, 0.8, None, None, None]}
    row = make_rows(THREE, accuracies(THREE, finals))[2]
    assert (row.seeds, row.unfinished) == (2, (2, 3, 4))


def test_a_diverged_seed_is_counted_and_its_finite_figures_stay() -> None:
    both = comparison("fedavg", "fedprox", seeds="2", metrics=["accuracy", "loss"])
    runs = runs_of(both, lambda _arm, _seed: run_with({"accuracy": [0.5], "loss": [1.0]}))
    wild = run_with({"accuracy": [0.1], "loss": [nan]}, diverged=True)
    row = make_rows(both, but(runs, "fedprox", 1, **wild))[1]
    assert (row.seeds, row.diverged) == (2, (1,))
    assert row.figures["accuracy"] is not None
    assert row.figures["loss"] is not None
    assert row.figures["accuracy"].mean == pytest.approx(0.3)
    assert row.figures["loss"].count == 1
    assert row.finals["loss"] == {0: 1.0, 1: None}


def test_an_arm_that_never_finished_has_no_figure() -> None:
    runs = accuracies(THREE, {**FINALS, "scaffold": [None] * 5})
    row = make_rows(THREE, runs)[1]
    assert row.figures == {"accuracy": None}
    assert row.versus == {"accuracy": None}
    assert (row.rounds, row.bytes_per_round, row.seconds_per_round) == (None, None, None)


def test_an_arm_is_best_if_every_difference_says_so() -> None:
    rows = make_rows(THREE, accuracies(THREE, FINALS))
    assert [row.best for row in rows] == [False, True, False]


def test_no_arm_is_best_where_one_is_as_good_or_a_seed_is_missing() -> None:
    level = make_rows(THREE, accuracies(THREE, {**FINALS, "fedprox": BETTER}))
    assert not any(row.best for row in level)
    missing = make_rows(THREE, but(accuracies(THREE, FINALS), "fedavg", 0, state="failed"))
    assert not any(row.best for row in missing)


def test_on_many_problems_what_is_best_on_one_has_to_be_surer() -> None:
    alphas = ",".join(str(place) for place in range(1, 11))
    gains = [0.03, 0.01, 0.02, 0.04, 0.00]  # p = 0.047
    finals = {"fedavg": [0.5] * 5, "scaffold": [0.5 + gain for gain in gains]}
    one = comparison("fedavg", "scaffold", seeds="5")
    assert [row.best for row in make_rows(one, accuracies(one, finals))] == [False, True]
    ten = comparison("fedavg", "scaffold", seeds="5", grid=[f"partition.alpha={alphas}"])
    assert not any(row.best for row in make_rows(ten, accuracies(ten, finals)))


def test_differences_that_are_all_the_same_show_no_best_arm() -> None:
    same = comparison("fedavg", "scaffold", seeds="5")
    finals = {"fedavg": FEDAVG, "scaffold": [value + 0.125 for value in FEDAVG]}
    assert not any(row.best for row in make_rows(same, accuracies(same, finals)))


def test_few_seeds_show_no_best_arm() -> None:
    four = comparison("fedavg", "scaffold", seeds="4")
    assert not any(row.best for row in make_rows(four, accuracies(four, FINALS)))


def test_the_best_one_has_the_smallest_loss() -> None:
    two = comparison("fedavg", "scaffold", seeds="5", metrics=["loss"])
    losses = {"fedavg": [1.0, 1.1, 0.9, 1.0, 1.2], "scaffold": [0.5, 0.61, 0.4, 0.5, 0.7]}
    runs = runs_of(two, lambda arm, seed: run_with({"loss": [losses[arm][seed]]}))
    assert [row.best for row in make_rows(two, runs)] == [False, True]


def test_a_target_costs_the_median_and_what_never_reached_it_counts() -> None:
    two = comparison("fedavg", "fedprox", seeds="3", targets=["accuracy=0.5"])
    curves = {0: [0.1, 0.6, 0.4], 1: [0.5, 0.5, 0.5], 2: [0.1, 0.1, 0.1]}
    runs = runs_of(two, lambda _arm, seed: run_with({"accuracy": curves[seed]}))
    first, second = make_rows(two, but(runs, "fedprox", 1, state="failed"))
    (to,) = first.targets
    assert (to.rounds, to.bytes, to.seconds, to.reached, to.of) == (2.0, 200.0, 4.0, 2, 3)
    (to,) = second.targets
    assert (to.rounds, to.reached, to.of) == (None, 1, 3)


def test_the_spread_over_clients_is_the_mean_over_seeds_at_the_end() -> None:
    one = comparison("fedavg", seeds="2")

    def what(_arm: str, seed: int) -> dict[str, object]:
        figures = {"worst_tenth": 0.1, "p10": 0.2, "p50": 0.5, "p90": 0.9, "variance": 0.04}
        spread = {f"clients.accuracy.{k}": [None, v + seed / 10] for k, v in figures.items()}
        return dict(run_with({"accuracy": [0.5, 0.5], **spread}))

    (row,) = make_rows(one, runs_of(one, what))
    assert row.spread is not None
    assert (row.spread.worst10, row.spread.p50) == pytest.approx((0.15, 0.55))
    assert (row.bytes_per_round, row.seconds_per_round, row.rounds) == (100.0, 2.0, 2.0)


def test_without_figures_of_clients_there_is_no_spread() -> None:
    assert make_rows(THREE, accuracies(THREE, FINALS))[0].spread is None
