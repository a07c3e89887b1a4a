"""How late the coordinator is, from the times at which its event loop turned and what calls say."""

import pytest

from roundel.server.lateness import LATE_S, PULSE_S, Lateness


def turning(*times_s: float) -> Lateness:
    lateness = Lateness()
    for now_s in times_s:
        lateness.turned(now_s)
    return lateness


def test_nobody_is_late_before_the_first_turn():
    assert Lateness().total_s(1_000.0) == 0.0


def test_a_loop_that_turns_on_time_is_never_late():
    lateness = turning(*(10.0 + PULSE_S * number for number in range(100)))
    assert lateness.total_s(10.0 + PULSE_S * 100) == 0.0


def test_a_loop_that_turns_a_little_later_is_not_late():
    assert turning(10.0, 10.0 + LATE_S).total_s(10.0 + 2 * LATE_S) == 0.0


def test_a_loop_that_stood_still_was_late_by_what_is_beyond_a_pulse():
    assert turning(10.0, 40.0).total_s(40.0) == 30.0 - PULSE_S


def test_lateness_is_known_before_the_loop_turns_again():
    """The thread that looks for silent nodes may be the first to run after a standstill."""
    assert turning(10.0).total_s(40.0) == 30.0 - PULSE_S


def test_lateness_adds_up():
    assert turning(0.0, 10.0, 10.25, 20.25).total_s(20.5) == 2 * (10.0 - PULSE_S)


def test_while_all_calls_have_waited_for_long_time_does_not_pass():
    lateness = turning(10.0)
    for number in range(1, 5):
        lateness.waited(LATE_S + 0.5)
        lateness.waited(5.0)
        lateness.turned(10.0 + 0.25 * number)
    assert lateness.total_s(11.0) == 1.0


@pytest.mark.parametrize("wait_s", [-3.0, 0.0, LATE_S])
def test_one_call_that_was_accepted_at_once_shows_that_all_are_heard(wait_s):
    lateness = turning(10.0)
    lateness.waited(5.0)
    lateness.waited(wait_s)
    lateness.turned(10.25)
    assert lateness.total_s(10.25) == 0.0


def test_what_calls_waited_counts_for_one_pulse():
    lateness = turning(10.0)
    lateness.waited(5.0)
    lateness.turned(10.25)
    lateness.turned(10.5)
    assert lateness.total_s(10.5) == 0.25
