"""The round machine, event by event: what it orders, and in which words it refuses."""

import pytest

from roundel.core.errors import RoundelError
from roundel.core.messages import ClientFailure, ClientUpdate, Ticket
from roundel.server.round import (
    Abort,
    Accept,
    Assign,
    ClientFailed,
    ClientJoined,
    ClientLost,
    Commit,
    DeadlinePassed,
    Event,
    Outcome,
    Reject,
    RoundMachine,
    RoundTerms,
    SetTimer,
    Status,
    UpdateArrived,
)

LATE = "it is late: round 3 is over"
DUPLICATE = "it is a duplicate: an update of this client was accepted already"


def ticket(client_id: int, attempt: int = 0, *, run="r", round=3, stage=0) -> Ticket:
    return Ticket(run=run, round=round, client_id=client_id, stage=stage, attempt=attempt)


def update(client_id: int, attempt: int = 0, *, examples: int = 1) -> ClientUpdate:
    return ClientUpdate(
        ticket=ticket(client_id, attempt),
        base_version=2,
        num_examples=examples,
        num_steps=1,
        channels={},
    )


def arrived(client_id: int, attempt: int = 0) -> UpdateArrived:
    return UpdateArrived(update(client_id, attempt))


def bad(client_id: int) -> UpdateArrived:
    return UpdateArrived(update(client_id, examples=0))


def failure(client_id: int, attempt: int = 0) -> ClientFailure:
    return ClientFailure(ticket=ticket(client_id, attempt), stage="train", error="ValueError: no")


def failed(client_id: int, attempt: int = 0) -> ClientFailed:
    return ClientFailed(failure(client_id, attempt))


def lost(client_id: int) -> ClientLost:
    return ClientLost(client_id, "its node went away")


def gate(candidate: ClientUpdate) -> ClientUpdate | str:
    return candidate if candidate.num_examples else "it is empty"


def started(
    cohort=(1, 2, 3), target: int = 3, quorum: int = 2, deadline_s: float | None = None
) -> RoundMachine:
    terms = RoundTerms(
        run="r", round=3, cohort=cohort, target=target, quorum=quorum, deadline_s=deadline_s
    )
    machine = RoundMachine(terms, gate)
    machine.start(now_s=100.0)
    return machine


def after(*events: Event, **terms) -> RoundMachine:
    machine = started(**terms)
    for event in events:
        machine.handle(event)
        machine.check_invariants()
    return machine


def status_of(machine: RoundMachine, client_id: int) -> Status:
    return machine.outcomes[client_id].status


# ---- the beginning


def test_starting_assigns_all_work_in_the_order_of_the_cohort():
    machine = RoundMachine(RoundTerms(run="r", round=3, cohort=(7, 2), target=2, quorum=1), gate)
    assert machine.start(now_s=5.0) == [Assign(ticket(7)), Assign(ticket(2))]
    assert status_of(machine, 2) is Status.ASSIGNED
    assert machine.ended is None


def test_a_deadline_sets_the_timer_before_anything_else():
    terms = RoundTerms(run="r", round=3, cohort=(7,), target=1, quorum=1, deadline_s=2.5)
    assert RoundMachine(terms, gate).start(now_s=100.0) == [SetTimer(102.5), Assign(ticket(7))]


def test_tickets_carry_the_stage():
    terms = RoundTerms(run="r", round=3, cohort=(7,), target=1, quorum=1, stage=2)
    assert RoundMachine(terms, gate).start(now_s=0.0) == [Assign(ticket(7, stage=2))]


@pytest.mark.parametrize("cohort", [(), (1, 1), (1, 2, 1)])
def test_a_cohort_is_a_set_of_at_least_one(cohort):
    with pytest.raises(RoundelError) as caught:
        RoundMachine(RoundTerms(run="r", round=3, cohort=cohort, target=1, quorum=1), gate)
    assert str(caught.value) == (
        f"a cohort of {list(cohort)} is not a set of clients: select at least one, each once"
    )


def test_an_event_before_the_start_is_misuse():
    machine = RoundMachine(RoundTerms(run="r", round=3, cohort=(1,), target=1, quorum=1), gate)
    with pytest.raises(RoundelError, match="round 3 got an event before it was started; so far: "):
        machine.handle(DeadlinePassed())


def test_starting_twice_is_misuse_and_the_error_carries_the_story():
    machine = after(arrived(1), failed(2), lost(3))
    with pytest.raises(RoundelError) as caught:
        machine.start(now_s=0.0)
    assert str(caught.value) == (
        "round 3 started twice; so far: round 3 started with 3 clients; "
        "client 1, attempt 0: update accepted; "
        "client 2, attempt 0: failed: ValueError: no; "
        "client 3 lost: its node went away; "
        "ended: every client answered or was lost"
    )


# ---- each event in each state of its client, while the round is open

ACCEPTED, REJECTED, FAILED, LOST = (arrived(1),), (bad(1),), (failed(1),), (lost(1),)
OPEN_ROUND = [
    ((), arrived(1), [Accept(update(1))], Status.ACCEPTED),
    ((), bad(1), [Reject(ticket(1), "it is empty")], Status.REJECTED),
    ((), failed(1), [], Status.FAILED),
    ((), lost(1), [], Status.LOST),
    ((), ClientJoined(1), [], Status.ASSIGNED),
    (ACCEPTED, arrived(1), [Reject(ticket(1), DUPLICATE)], Status.ACCEPTED),
    (ACCEPTED, bad(1), [Reject(ticket(1), DUPLICATE)], Status.ACCEPTED),
    (ACCEPTED, failed(1), [Reject(ticket(1), DUPLICATE)], Status.ACCEPTED),
    (ACCEPTED, lost(1), [], Status.ACCEPTED),
    (ACCEPTED, ClientJoined(1), [], Status.ACCEPTED),
    (
        REJECTED,
        arrived(1),
        [Reject(ticket(1), "this client's work is already rejected")],
        Status.REJECTED,
    ),
    (
        REJECTED,
        failed(1),
        [Reject(ticket(1), "this client's work is already rejected")],
        Status.REJECTED,
    ),
    (REJECTED, lost(1), [], Status.REJECTED),
    (REJECTED, ClientJoined(1), [], Status.REJECTED),
    (
        FAILED,
        arrived(1),
        [Reject(ticket(1), "this client's work is already failed")],
        Status.FAILED,
    ),
    (
        FAILED,
        failed(1),
        [Reject(ticket(1), "this client's work is already failed")],
        Status.FAILED,
    ),
    (FAILED, lost(1), [], Status.FAILED),
    (FAILED, ClientJoined(1), [], Status.FAILED),
    (LOST, arrived(1), [Reject(ticket(1), "this client's work is already lost")], Status.LOST),
    (LOST, failed(1), [Reject(ticket(1), "this client's work is already lost")], Status.LOST),
    (LOST, lost(1), [], Status.LOST),
    (LOST, ClientJoined(1), [Assign(ticket(1, attempt=1))], Status.ASSIGNED),
]


@pytest.mark.parametrize(("before", "event", "expected", "status"), OPEN_ROUND)
def test_an_event_in_an_open_round_does_what_the_table_says(before, event, expected, status):
    machine = after(*before)
    assert machine.handle(event) == expected
    machine.check_invariants()
    assert status_of(machine, 1) is status
    assert machine.ended is None


# ---- each event once the round is over: clients 1 accepted, 2 rejected, 3 failed, 4 lost, 5 open

ENDED = [
    (arrived(1), [Reject(ticket(1), DUPLICATE)]),
    (failed(1), [Reject(ticket(1), DUPLICATE)]),
    (arrived(2), [Reject(ticket(2), LATE)]),
    (arrived(3), [Reject(ticket(3), LATE)]),
    (arrived(4), [Reject(ticket(4), LATE)]),
    (arrived(5), [Reject(ticket(5), LATE)]),
    (bad(5), [Reject(ticket(5), LATE)]),
    (failed(5), [Reject(ticket(5), LATE)]),
    (lost(5), []),
    (ClientJoined(4), []),
    (DeadlinePassed(), []),
]


@pytest.mark.parametrize(("event", "expected"), ENDED)
def test_nothing_changes_a_round_that_is_over(event, expected):
    events = (arrived(1), bad(2), failed(3), lost(4), DeadlinePassed())
    machine = after(*events, cohort=(1, 2, 3, 4, 5), target=5, quorum=1)
    outcomes = dict(machine.outcomes)
    assert machine.handle(event) == expected
    machine.check_invariants()
    assert machine.outcomes == outcomes
    assert machine.ended == Commit()


# ---- answers that do not belong here


@pytest.mark.parametrize(
    ("foreign", "place"),
    [
        (ticket(1, run="q"), "round 3, stage 0 of run q"),
        (ticket(1, round=2), "round 2, stage 0 of run r"),
        (ticket(1, round=4), "round 4, stage 0 of run r"),
        (ticket(1, stage=1), "round 3, stage 1 of run r"),
    ],
)
def test_an_answer_to_another_run_round_or_stage_is_refused(foreign, place):
    machine = started()
    reason = f"it belongs to {place}, and this is round 3, stage 0 of run r"
    report = ClientFailure(ticket=foreign, stage="train", error="no")
    assert machine.handle(ClientFailed(report)) == [Reject(foreign, reason)]
    assert status_of(machine, 1) is Status.ASSIGNED


def test_an_answer_from_outside_the_cohort_is_refused():
    machine = started()
    reason = "client 9 is not in the cohort of round 3"
    assert machine.handle(arrived(9)) == [Reject(ticket(9), reason)]
    assert machine.handle(failed(9)) == [Reject(ticket(9), reason)]
    assert machine.handle(lost(9)) == []
    assert machine.handle(ClientJoined(9)) == []
    assert set(machine.outcomes) == {1, 2, 3}


def test_an_answer_to_an_attempt_that_was_never_assigned_is_refused():
    reason = "it answers attempt 1, and attempt 0 counts"
    assert started().handle(arrived(1, attempt=1)) == [Reject(ticket(1, attempt=1), reason)]


def test_after_a_rejoin_only_the_new_attempt_counts():
    machine = after(lost(1), ClientJoined(1))
    reason = "it answers attempt 0, and attempt 1 counts"
    assert machine.handle(arrived(1, attempt=0)) == [Reject(ticket(1), reason)]
    assert machine.handle(arrived(1, attempt=1)) == [Accept(update(1, attempt=1))]
    assert machine.outcomes[1] == Outcome(Status.ACCEPTED, attempt=1)


def test_each_loss_and_rejoin_counts_one_attempt_further():
    machine = after(lost(1), ClientJoined(1), lost(1))
    assert machine.outcomes[1] == Outcome(Status.LOST, 1, "its node went away")
    assert machine.handle(ClientJoined(1)) == [Assign(ticket(1, attempt=2))]


# ---- the end


def test_the_round_commits_with_the_update_that_reaches_the_target():
    machine = after(arrived(2), target=2)
    assert machine.handle(arrived(3)) == [Accept(update(3)), Commit()]
    assert machine.outcomes[1] == Outcome(Status.UNFINISHED, 0, "the target was reached")


def test_the_round_commits_once_nothing_more_can_come():
    machine = after(arrived(1), arrived(2))
    assert machine.handle(lost(3)) == [Commit()]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (bad(3), [Reject(ticket(3), "it is empty")]),
        (failed(3), []),
        (lost(3), []),
    ],
)
def test_the_round_aborts_when_the_last_answer_leaves_it_short_of_its_quorum(last, expected):
    machine = after(arrived(1), failed(2))
    reason = "round 3 has 1 accepted of 3 updates and needs 2: every client answered or was lost"
    assert machine.handle(last) == [*expected, Abort(reason)]
    machine.check_invariants()
    assert machine.ended == Abort(reason)


def test_a_round_short_of_its_quorum_takes_what_still_comes_for_when_it_is_resumed():
    # Which answers it would have had if it ended with the failure depends on who is quick.
    machine = after(failed(1), quorum=3)
    assert machine.ended is None
    assert machine.handle(arrived(2)) == [Accept(update(2))]
    reason = "round 3 has 2 accepted of 3 updates and needs 3: every client answered or was lost"
    assert machine.handle(arrived(3)) == [Accept(update(3)), Abort(reason)]


def test_at_the_deadline_the_round_commits_with_what_reached_its_quorum():
    machine = after(arrived(1), arrived(3), deadline_s=5.0)
    assert machine.handle(DeadlinePassed()) == [Commit()]
    assert machine.outcomes[2] == Outcome(Status.UNFINISHED, 0, "the deadline passed")


def test_at_the_deadline_the_round_aborts_below_its_quorum():
    machine = after(arrived(1), deadline_s=5.0)
    reason = "round 3 has 1 accepted of 3 updates and needs 2: the deadline passed"
    assert machine.handle(DeadlinePassed()) == [Abort(reason)]


def test_a_failure_report_is_kept_with_its_reason():
    machine = after(failed(2))
    assert machine.outcomes[2] == Outcome(Status.FAILED, 0, "ValueError: no", failure(2))


def test_a_broken_invariant_raises_with_the_story():
    machine = after(arrived(1))
    machine.outcomes[2] = Outcome(Status.ACCEPTED)
    with pytest.raises(RoundelError) as caught:
        machine.check_invariants()
    assert str(caught.value) == (
        "round 3 broke its invariant: accepted updates are counted; so far: round 3 started with "
        "3 clients; client 1, attempt 0: update accepted"
    )


def empty(quorum: int) -> RoundTerms:
    return RoundTerms(run="r", round=3, cohort=[], target=0, quorum=quorum)


def test_a_round_in_which_nobody_was_selected_commits_at_once_if_it_needs_nobody():
    machine = RoundMachine(empty(quorum=0), lambda update: update)
    assert machine.start(now_s=0.0) == [Commit()]
    assert machine.ended == Commit()
    machine.check_invariants()
    assert machine.handle(DeadlinePassed()) == []
    with pytest.raises(RoundelError, match="started twice"):
        machine.start(now_s=0.0)


def test_an_empty_cohort_is_refused_if_somebody_is_needed():
    with pytest.raises(RoundelError, match="select at least one"):
        RoundMachine(empty(quorum=1), lambda update: update)


# ---- a deadline by how long the others took


def with_factor(factor: float = 2.0, target: int = 3) -> RoundMachine:
    terms = RoundTerms(
        run="r", round=3, cohort=(0, 1, 2, 3), target=target, quorum=1, deadline_factor=factor
    )
    machine = RoundMachine(terms, gate)
    machine.start(now_s=100.0)
    return machine


def timers(machine: RoundMachine, client: int, at_s: float | None) -> list[float]:
    instructions = machine.handle(UpdateArrived(update(client), at_s))
    machine.check_invariants()
    return [i.at_s for i in instructions if isinstance(i, SetTimer)]


def test_the_deadline_is_a_multiple_of_the_median_once_half_of_the_target_is_accepted():
    machine = with_factor()
    assert timers(machine, 0, 103.0) == []  # one of three
    assert timers(machine, 1, 105.0) == [100.0 + 2 * 4.0]
    assert timers(machine, 2, 190.0) == []  # the target: the round is over


def test_the_deadline_moves_with_the_median():
    machine = with_factor(factor=1.5, target=4)
    assert timers(machine, 0, 102.0) == []
    assert timers(machine, 1, 104.0) == [100.0 + 1.5 * 3.0]
    assert timers(machine, 2, 109.0) == [100.0 + 1.5 * 4.0]


def test_updates_from_before_a_restart_say_nothing_about_how_long_others_take():
    machine = with_factor()
    assert timers(machine, 0, None) == timers(machine, 1, None) == []
