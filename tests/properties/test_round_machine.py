"""Laws of the round machine, over event sequences that nobody would think of."""

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

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
    Instruction,
    Reject,
    RoundMachine,
    RoundTerms,
    SetTimer,
    Status,
    UpdateArrived,
)

RUN, ROUND, STAGE = "r", 2, 0
CLIENTS = 6
REFUSED = "the gate says no"

clients = st.integers(0, CLIENTS - 1)
tickets = st.builds(
    Ticket,
    run=st.sampled_from([RUN, RUN, RUN, "q"]),
    round=st.sampled_from([ROUND, ROUND, ROUND, 1, 3]),
    client_id=clients,
    stage=st.sampled_from([STAGE, STAGE, STAGE, 1]),
    attempt=st.sampled_from([0, 0, 1, 2]),
)


def gate(update: ClientUpdate) -> ClientUpdate | str:
    return update if update.num_examples else REFUSED


def update_of(ticket: Ticket, examples: int = 1) -> ClientUpdate:
    return ClientUpdate(
        ticket=ticket, base_version=1, num_examples=examples, num_steps=1, channels={}
    )


class RoundMachineRun(RuleBasedStateMachine):
    """A round under a storm of events, beside the least that a correct round must remember.

    The oracle is the set of live tickets: those that were assigned and neither answered, lost nor
    closed by the end of the round. An answer counts exactly if its ticket is live.
    """

    @initialize(
        cohort=st.lists(clients, min_size=1, unique=True),
        data=st.data(),
        deadline_s=st.none() | st.just(5.0),
    )
    def begin(self, cohort: list[int], data: st.DataObject, deadline_s: float | None) -> None:
        target = data.draw(st.integers(1, len(cohort)), label="target")
        quorum = data.draw(st.integers(1, target), label="quorum")
        self.machine = RoundMachine(
            RoundTerms(
                run=RUN,
                round=ROUND,
                cohort=cohort,
                target=target,
                quorum=quorum,
                deadline_s=deadline_s,
            ),
            gate,
        )
        self.live: set[Ticket] = set()
        self.assigned: list[Ticket] = []
        self.accepted: list[Ticket] = []
        self.ends: list[Instruction] = []
        self.attempts = dict.fromkeys(cohort, 0)
        self.events = 0
        instructions = self.machine.start(now_s=1.0)
        timers = [i for i in instructions if isinstance(i, SetTimer)]
        assert timers == ([] if deadline_s is None else [SetTimer(6.0)])
        self.assigned = [i.ticket for i in instructions if isinstance(i, Assign)]
        self.live = set(self.assigned)
        assert [ticket.client_id for ticket in self.assigned] == cohort

    def send(self, event: Event) -> list[Instruction]:
        over = bool(self.ends)
        instructions = self.machine.handle(event)
        self.events += 1
        self.machine.check_invariants()
        self.ends += [i for i in instructions if isinstance(i, Commit | Abort)]
        if over:
            assert all(isinstance(i, Reject) for i in instructions)
        if self.ends and not over:
            assert instructions[-1] is self.ends[0]
            self.live.clear()
        return instructions

    def answer(self, event: Event, ticket: Ticket) -> None:
        """Send an answer; it must count exactly if its ticket is live."""
        counts = ticket in self.live
        self.live.discard(ticket)
        good = isinstance(event, UpdateArrived) and event.update.num_examples > 0
        first = self.send(event)[:1]
        if counts and good:
            assert first == [Accept(update_of(ticket))]
            self.accepted.append(ticket)
        elif counts and isinstance(event, UpdateArrived):
            assert first == [Reject(ticket, REFUSED)]
        elif not counts:
            assert [i.ticket for i in first if isinstance(i, Reject)] == [ticket]
            assert first != [Reject(ticket, REFUSED)]  # what is stale does not reach the gate

    @rule(data=st.data(), examples=st.sampled_from([1, 1, 0]))
    @precondition(lambda self: self.live)
    def an_assigned_client_sends_its_update(self, data: st.DataObject, examples: int) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.live, key=repr)), label="ticket")
        self.answer(UpdateArrived(update_of(ticket, examples)), ticket)

    @rule(ticket=tickets, examples=st.sampled_from([1, 0]))
    def some_update_arrives(self, ticket: Ticket, examples: int) -> None:
        self.answer(UpdateArrived(update_of(ticket, examples)), ticket)

    @rule(data=st.data())
    @precondition(lambda self: self.live != set(self.assigned))
    def an_update_comes_from_the_past(self, data: st.DataObject) -> None:
        past = [ticket for ticket in self.assigned if ticket not in self.live]
        ticket = data.draw(st.sampled_from(past), label="ticket")
        self.answer(UpdateArrived(update_of(ticket)), ticket)

    @rule(ticket=tickets)
    def some_failure_is_reported(self, ticket: Ticket) -> None:
        failure = ClientFailure(ticket=ticket, stage="train", error="ValueError: no")
        self.answer(ClientFailed(failure), ticket)

    @rule(client_id=clients)
    def a_client_is_lost(self, client_id: int) -> None:
        self.live -= {ticket for ticket in self.live if ticket.client_id == client_id}
        instructions = self.send(ClientLost(client_id, "its node went away"))
        assert all(isinstance(i, Commit | Abort) for i in instructions)

    @rule(data=st.data())
    @precondition(lambda self: self.lost())
    def a_lost_client_joins(self, data: st.DataObject) -> None:
        self.join(data.draw(st.sampled_from(self.lost()), label="client"))

    @rule(client_id=clients)
    def some_client_joins(self, client_id: int) -> None:
        self.join(client_id)

    def lost(self) -> list[int]:
        outcomes = self.machine.outcomes.items()
        return [client_id for client_id, o in outcomes if o.status is Status.LOST]

    def join(self, client_id: int) -> None:
        was_lost = client_id in self.lost() and not self.ends
        instructions = self.send(ClientJoined(client_id))
        if was_lost:
            self.attempts[client_id] += 1
            attempt = self.attempts[client_id]
            ticket = Ticket(run=RUN, round=ROUND, client_id=client_id, attempt=attempt)
            assert instructions == [Assign(ticket)]
            self.assigned.append(ticket)
            self.live.add(ticket)
        else:
            assert instructions == []

    @rule()
    @precondition(lambda self: self.events > 12)
    def the_deadline_passes(self) -> None:
        instructions = self.send(DeadlinePassed())
        assert len(self.ends) == 1
        assert all(isinstance(i, Commit | Abort) for i in instructions)

    @rule()
    def somebody_starts_it_again(self) -> None:
        before = dict(self.machine.outcomes), list(self.machine.story)
        with pytest.raises(RoundelError) as caught:
            self.machine.start(now_s=0.0)
        assert str(caught.value).endswith("; so far: " + "; ".join(self.machine.story))
        assert (self.machine.outcomes, list(self.machine.story)) == before

    @invariant()
    def it_ends_at_most_once(self) -> None:
        assert self.ends == ([] if self.machine.ended is None else [self.machine.ended])

    @invariant()
    def no_client_is_accepted_twice_and_no_more_than_the_target(self) -> None:
        winners = [ticket.client_id for ticket in self.accepted]
        assert len(set(winners)) == len(winners) <= self.machine.terms.target
        statuses = {c: outcome.status for c, outcome in self.machine.outcomes.items()}
        assert {c for c, s in statuses.items() if s is Status.ACCEPTED} == set(winners)

    @invariant()
    def it_commits_exactly_with_its_quorum(self) -> None:
        if self.ends:
            enough = len(self.accepted) >= self.machine.terms.quorum
            assert isinstance(self.ends[0], Commit if enough else Abort)

    @invariant()
    def an_open_round_waits_for_exactly_the_live_tickets(self) -> None:
        waiting = {
            (client_id, outcome.attempt)
            for client_id, outcome in self.machine.outcomes.items()
            if outcome.status is Status.ASSIGNED
        }
        assert waiting == {(ticket.client_id, ticket.attempt) for ticket in self.live}
        assert bool(waiting) == (not self.ends)

    @invariant()
    def the_story_has_a_line_for_the_start_the_end_and_each_event(self) -> None:
        assert len(self.machine.story) == 1 + self.events + len(self.ends)


def test_a_round_keeps_its_laws_whatever_happens():
    run_state_machine_as_test(
        RoundMachineRun,
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None),
    )


@pytest.mark.slow
def test_a_round_keeps_its_laws_in_a_long_storm():
    run_state_machine_as_test(
        RoundMachineRun,
        settings=settings(max_examples=200, stateful_step_count=80, deadline=None),
    )


def events_of_a_round(cohort: Sequence[int]) -> list[Event]:
    """Every client is lost, joins, updates, and updates again."""
    events: list[Event] = []
    for client_id in cohort:
        ticket = Ticket(run=RUN, round=ROUND, client_id=client_id, attempt=1)
        events += [
            ClientLost(client_id, "its node went away"),
            ClientJoined(client_id),
            UpdateArrived(update_of(ticket)),
            UpdateArrived(update_of(ticket)),
        ]
    return events


def steps_of_a_round(count: int) -> int:
    """Count the bytecode steps that a round of so many clients takes."""
    steps = 0

    def trace(frame: FrameType, what: str, _arg: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += what == "opcode"
        return trace

    terms = RoundTerms(run=RUN, round=ROUND, cohort=range(count), target=count, quorum=1)
    machine = RoundMachine(terms, gate)
    machine.start(now_s=0.0)
    events = events_of_a_round(range(count))
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for event in events:
            machine.handle(event)
    finally:
        sys.settrace(before)
    assert machine.ended == Commit()
    return steps


def test_the_cost_of_a_round_is_linear_in_its_events():
    once, four_times = steps_of_a_round(50), steps_of_a_round(200)
    assert four_times < 4.4 * once
