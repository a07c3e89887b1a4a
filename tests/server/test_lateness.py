"""How late the coordinator is, from the times at which its event loop turned and what calls say."""

import pytest

from roundel.server.lateness import AGREEING, LATE_S, PULSE_S, TRUST_S, Lateness


def turning(*times_s: float) -> Lateness:
    lateness = Lateness()
    for now_s in times_s:
        lateness.turned(now_s)
    return lateness


def crowd_waited(lateness: Lateness, wait_s: float = 5.0, nodes: int = AGREEING) -> None:
    for number in range(nodes):
        lateness.waited(f"node-{number}", wait_s)


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
        crowd_waited(lateness)
        lateness.waited("least", LATE_S + 0.5)
        lateness.turned(10.0 + 0.25 * number)
    assert lateness.total_s(11.0) == 1.0


@pytest.mark.parametrize("wait_s", [-3.0, 0.0, LATE_S])
def test_one_call_that_was_accepted_at_once_shows_that_all_are_heard(wait_s):
    lateness = turning(10.0)
    crowd_waited(lateness)
    lateness.waited("prompt", wait_s)
    lateness.turned(10.25)
    assert lateness.total_s(10.25) == 0.0


def test_a_node_that_has_said_both_counts_as_heard():
    lateness = turning(10.0)
    crowd_waited(lateness, nodes=AGREEING - 1)
    lateness.waited("both", 0.0)
    lateness.waited("both", 5.0)
    lateness.turned(10.25)
    assert lateness.total_s(10.25) == 0.0


def test_few_nodes_cannot_stop_the_clock_however_often_they_call():
    """Else one that lies about its deadline keeps silent ones in the run."""
    lateness = turning(10.0)
    for number in range(1, 401):
        for _ in range(50):
            crowd_waited(lateness, nodes=AGREEING - 1)
        lateness.turned(10.0 + 0.25 * number)
    assert lateness.total_s(110.0) == 0.0


def test_a_crowd_stops_the_clock_for_a_while_in_a_row_and_no_longer():
    lateness = turning(0.0)
    for number in range(1, 4 * 61 + 1):
        crowd_waited(lateness)
        lateness.turned(0.25 * number)
    assert lateness.total_s(61.0) == TRUST_S + 0.5  # every other pulse after the minute


def test_what_nodes_say_stops_the_clock_no_longer_than_it_has_run_since():
    lateness = turning(0.0)
    for number in range(1, 4 * 60 + 1):
        crowd_waited(lateness)
        lateness.turned(0.25 * number)
    for number in range(1, 4 * 5 + 1):
        lateness.turned(60.0 + 0.25 * number)
    for number in range(1, 4 * 5 + 1):
        crowd_waited(lateness)
        lateness.turned(65.0 + 0.25 * number)
    assert lateness.total_s(70.0) == TRUST_S + 5.0
    for number in range(1, 4 * 100 + 1):
        lateness.turned(70.0 + 0.25 * number)
    crowd_waited(lateness)
    lateness.turned(170.25)
    assert lateness.total_s(170.25) == TRUST_S + 5.25


def test_a_loop_that_stood_still_under_a_crowd_was_late_all_the_time():
    lateness = turning(10.0)
    crowd_waited(lateness)
    lateness.turned(40.0)
    assert lateness.total_s(40.0) == 30.0


def test_what_calls_waited_counts_for_one_pulse():
    lateness = turning(10.0)
    crowd_waited(lateness)
    lateness.turned(10.25)
    lateness.turned(10.5)
    assert lateness.total_s(10.5) == 0.25
