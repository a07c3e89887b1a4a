"""How long is left, from rounds that were done."""

from roundel.simulations.cells import RoundDone, RunEnded
from roundel.simulations.pace import Pace


def rounds(pace, job, *seconds, first=1):
    for number, value in enumerate(seconds, start=first):
        pace.hear(RoundDone(job=job, round=number, seconds=value, metrics={}))


def test_the_first_round_of_a_run_does_not_count():
    pace = Pace([10], ["a"], workers=1)
    rounds(pace, 0, 50.0, 1.0, 2.0)
    assert (pace.measured, pace.left_s) == (2, None)
    rounds(pace, 0, 3.0, first=4)
    assert pace.round_s == 2.0
    assert pace.left_s == 6 * 2.0


def test_kinds_that_have_not_begun_are_taken_to_be_like_the_others():
    pace = Pace([5, 5, 10], ["quick", "slow", "unknown"], workers=1)
    rounds(pace, 0, 1.0, 1.0, 1.0)
    rounds(pace, 1, 3.0, 3.0, 3.0)
    assert pace.round_s == 2.0
    assert pace.left_s == 2 * 1.0 + 2 * 3.0 + 10 * 2.0


def test_runs_side_by_side_share_the_time_but_one_cannot_be_divided():
    pace = Pace([4, 100, 4], ["a", "a", "a"], workers=3)
    rounds(pace, 0, 1.0, 1.0, 1.0, 1.0)
    assert pace.left_s == 100.0


def test_a_run_that_has_ended_early_takes_no_more_time():
    pace = Pace([10, 10], ["a", "a"], workers=1)
    rounds(pace, 0, 1.0, 1.0, 1.0, 1.0)
    pace.hear(RunEnded(job=0, status="failed"))
    assert pace.left_s == 10.0


def test_rounds_that_are_computed_again_are_not_measured():
    pace = Pace([10], ["a"], workers=1)
    rounds(pace, 0, None, None, None, 1.0)
    assert pace.measured == 1
