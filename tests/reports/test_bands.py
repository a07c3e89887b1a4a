"""Curves are means over all seeds, where all of them measured something."""

from math import nan

import pytest

from roundel.reports.bands import make_bands
from tests.reports.made_cells import but, comparison, run_with, runs_of

ONE = comparison("fedavg", seeds="2")
CURVES = {0: [0.1, None, 0.5], 1: [0.3, 0.4, 0.7]}
RUNS = runs_of(ONE, lambda _arm, seed: run_with({"accuracy": CURVES[seed]}))


def test_a_curve_has_the_rounds_that_all_seeds_measured() -> None:
    (band,) = make_bands(ONE, RUNS)
    assert (band.arm, band.metric, band.seeds) == ("fedavg", "accuracy", 2)
    assert (band.rounds, band.bytes, band.seconds) == ((1.0, 3.0), (100.0, 300.0), (2.0, 6.0))
    assert band.mean == pytest.approx((0.2, 0.6))
    # 12.7062 is the 97.5 % quantile with 1 degree of freedom; s / sqrt(2) = 0.1.
    assert band.low[0] == pytest.approx(0.2 - 1.27062, abs=1e-5)


def test_a_curve_ends_with_its_shortest_run() -> None:
    short = run_with({"accuracy": [0.2]})
    (band,) = make_bands(ONE, but(RUNS, "fedavg", 1, **short))
    assert band.rounds == (1.0,)


def test_a_curve_has_a_gap_where_a_seed_is_not_finite() -> None:
    wild = run_with({"accuracy": [0.1, 0.1, nan]})
    (band,) = make_bands(ONE, but(RUNS, "fedavg", 1, **wild))
    assert band.mean == (pytest.approx(0.1), None)
    assert band.high[1] is None


def test_runs_that_have_not_finished_are_in_no_curve() -> None:
    (band,) = make_bands(ONE, but(RUNS, "fedavg", 0, state="unfinished"))
    assert (band.seeds, band.low) == (1, (None, None, None))
    assert make_bands(ONE, [run for run in RUNS if run.cell.seed > 1]) == ()
