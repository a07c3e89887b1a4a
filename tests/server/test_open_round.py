"""A round in progress: what it sends, sums and writes down."""

import torch

from roundel.core.messages import ClientFailure, update_blake3
from roundel.core.metrics import Metrics
from roundel.core.records import ClientRecord
from roundel.server.open_round import OpenRound
from roundel.server.round import (
    Abort,
    Assign,
    ClientFailed,
    ClientJoined,
    ClientLost,
    Commit,
    DeadlinePassed,
    Reject,
    RoundTerms,
    SetTimer,
    UpdateArrived,
)
from roundel.strategies.compose import Part, compose
from roundel.strategies.krum import krum
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Codec, RoundContext
from tests.server.toys import SPEC, STRATEGY, bits, round_of, state_of, ticket_of, update_of

BROADCAST_BYTES = 3 * 4 + 8  # the vector of three float32, and one int64
UPDATE_BYTES = 2 * 4 + 4 + 8  # two weights, one buffer, one integer


def failure(client_id: int) -> ClientFailed:
    report = ClientFailure(
        ticket=ticket_of(client_id),
        stage="train",
        error="ValueError: no",
        location="task.py:7",
        traceback="Traceback ...",
    )
    return ClientFailed(report)


def test_a_request_holds_what_the_server_has_and_its_ticket():
    strategy = scaffold()
    open_round = round_of((1, 2), strategy)
    open_round.start(0.0)
    request = open_round.request(ticket_of(2))
    state = state_of(strategy)
    assert (request.ticket, request.base_version) == (ticket_of(2), 0)
    assert bits({"p": request.params, "i": request.integers}) == bits(
        {"p": state.params, "i": state.integers}
    )
    assert bits(request.channels) == bits({"control": torch.zeros(2)})


def test_what_the_rule_says_to_too_few_updates_is_known_before_they_are_aggregated():
    open_round = round_of((0, 1, 2), compose(krum(f=0)))
    open_round.start(0.0)
    for client_id, objects in ((0, True), (1, True), (2, False)):
        open_round.handle(UpdateArrived(update_of(client_id, (1.0, 2.0))))
        assert bool(open_round.objection) == objects
    assert round_of((0,)).objection == ""


def test_each_assignment_counts_its_bytes_down_a_second_attempt_too():
    open_round = round_of((1, 2))
    assert open_round.start(0.0) == [Assign(ticket_of(1)), Assign(ticket_of(2))]
    assert open_round.bytes_down == 2 * BROADCAST_BYTES
    open_round.handle(ClientLost(1, "its node went away"))
    open_round.handle(ClientJoined(1))
    assert open_round.bytes_down == 3 * BROADCAST_BYTES


def test_channels_of_the_broadcast_count_as_bytes():
    open_round = round_of((1,), scaffold())
    open_round.start(0.0)
    assert open_round.bytes_down == BROADCAST_BYTES + 2 * 4


def test_every_update_counts_its_bytes_up_refused_ones_too():
    open_round = round_of((1, 2, 3))
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(1)))
    open_round.handle(UpdateArrived(update_of(1)))
    open_round.handle(UpdateArrived(update_of(2, num_examples=0)))
    assert open_round.bytes_up == 3 * UPDATE_BYTES


def test_accepted_updates_are_summed_before_handle_returns():
    open_round = round_of((1, 2))
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(1, (1.0, 3.0))))
    context = RoundContext(round=1, population=4, selected=2, completed=1)
    assert open_round.accumulators.finish(context)["params"].tolist() == [1.0, 3.0]


def test_the_timer_and_the_end_are_passed_on():
    open_round = round_of((1,), deadline_s=3.0)
    assert open_round.start(10.0) == [SetTimer(13.0), Assign(ticket_of(1))]
    assert open_round.ended is None
    (end,) = open_round.handle(DeadlinePassed())
    assert open_round.ended is end


def test_accepted_clients_are_sorted_and_their_training_figures_merged():
    open_round = round_of((3, 1, 2))
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(3, metrics=Metrics({"loss": 6.0}, 2))))
    open_round.handle(UpdateArrived(update_of(2, num_examples=0)))
    open_round.handle(UpdateArrived(update_of(1, metrics=Metrics({"loss": 3.0}, 4))))
    assert open_round.accepted() == [1, 3]
    assert open_round.train_metrics() == Metrics({"loss": 9.0}, 6)
    assert open_round.ended == Commit()


def test_a_duplicate_changes_neither_the_figures_nor_the_record():
    once, twice = round_of((1, 2)), round_of((1, 2))
    for open_round in (once, twice):
        open_round.start(0.0)
        open_round.handle(UpdateArrived(update_of(1)))
    twice.handle(UpdateArrived(update_of(1, (9.0, 9.0), metrics=Metrics({"loss": 99.0}, 1))))
    assert twice.train_metrics() == once.train_metrics()
    assert twice.client_records() == once.client_records()


def test_there_is_one_record_for_each_client_by_its_number():
    open_round = round_of((5, 4, 3, 2, 1), deadline_s=1.0)
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(4, (3.0, -4.0), seconds=0.1234567)))
    open_round.handle(failure(1))
    open_round.handle(ClientLost(2, "its node went away"))
    open_round.handle(UpdateArrived(update_of(3, num_steps=0)))
    open_round.handle(DeadlinePassed())
    assert open_round.client_records() == (
        ClientRecord(
            round=1, client=1, status="failed", reason="ValueError: no", location="task.py:7"
        ),
        ClientRecord(round=1, client=2, status="lost", reason="its node went away"),
        ClientRecord(round=1, client=3, status="rejected", reason="num_steps = 0 is less than 1"),
        ClientRecord(
            round=1,
            client=4,
            status="accepted",
            num_examples=2,
            num_steps=1,
            train_loss=1.5,
            update_norm=5.0,
            update_blake3=update_blake3(update_of(4, (3.0, -4.0))),
            seconds=0.123457,
        ),
        ClientRecord(round=1, client=5, status="unfinished", reason="the deadline passed"),
    )


def test_the_record_says_which_attempt_it_was():
    open_round = round_of((1, 2))
    open_round.start(0.0)
    open_round.handle(ClientLost(1, "its node went away"))
    open_round.handle(ClientJoined(1))
    open_round.handle(UpdateArrived(update_of(1, ticket=ticket_of(1, attempt=1))))
    assert [record.attempt for record in open_round.client_records()] == [1, 0]


def test_tracebacks_are_those_of_clients_that_failed():
    open_round = round_of((1, 2))
    open_round.start(0.0)
    open_round.handle(failure(1))
    open_round.handle(UpdateArrived(update_of(2)))
    assert open_round.tracebacks() == {1: "Traceback ..."}


def test_failures_without_a_traceback_have_none():
    open_round = round_of((1, 2))
    open_round.start(0.0)
    report = ClientFailure(ticket=ticket_of(1), stage="train", error="it failed on purpose")
    open_round.handle(ClientFailed(report))
    assert open_round.tracebacks() == {}
    assert open_round.client_records()[0].location == ""


def test_the_hash_is_that_of_the_update_as_it_was_sent():
    def halve(sent, _kinds):
        return {**sent, "params": sent["params"] / 2}

    codec = Codec(name="half", encode=lambda c, _s, _seed: (c, {}), decode=halve)
    open_round = round_of((1,), compose(STRATEGY, Part(name="half", codecs=(codec,))))
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(1, (3.0, -4.0))))
    (record,) = open_round.client_records()
    assert record.update_norm == 2.5
    assert record.update_blake3 == update_blake3(update_of(1, (3.0, -4.0)))


def test_a_late_copy_of_an_update_does_not_change_the_hash_of_the_accepted_one():
    open_round = round_of((1, 2))
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(1)))
    open_round.handle(UpdateArrived(update_of(1, (9.0, 9.0))))
    assert open_round.client_records()[0].update_blake3 == update_blake3(update_of(1))


def absent(*clients: int):
    return lambda client_id: "it is away" if client_id in clients else None


def test_a_client_that_is_absent_is_assigned_counted_and_lost_without_being_handed_out():
    open_round = round_of((1, 2, 3), absence=absent(2))
    assert open_round.start(0.0) == [Assign(ticket_of(1)), Assign(ticket_of(3))]
    assert open_round.bytes_down == 3 * BROADCAST_BYTES
    assert [(r.client, r.status, r.reason) for r in open_round.client_records()] == [
        (1, "assigned", ""),
        (2, "lost", "it is away"),
        (3, "assigned", ""),
    ]
    open_round.machine.check_invariants()


def test_if_all_are_absent_the_round_is_over_before_it_began():
    open_round = round_of((1, 2), deadline_s=3.0, absence=absent(1, 2))
    timer, end = open_round.start(10.0)
    assert timer == SetTimer(13.0)
    assert isinstance(end, Abort)
    assert open_round.ended is end
    open_round.machine.check_invariants()


def test_an_absent_client_that_answers_all_the_same_is_refused():
    open_round = round_of((1, 2), absence=absent(2))
    open_round.start(0.0)
    (refused,) = open_round.handle(UpdateArrived(update_of(2)))
    assert refused == Reject(ticket_of(2), "this client's work is already lost")


def test_records_of_clients_that_attack_say_so_and_others_say_nothing():
    terms = RoundTerms(run="r", round=1, cohort=(1, 2, 3), target=3, quorum=1)
    open_round = OpenRound(terms, STRATEGY, SPEC, state_of(), malicious={2, 3, 9})
    open_round.start(0.0)
    open_round.handle(UpdateArrived(update_of(1)))
    open_round.handle(UpdateArrived(update_of(2)))
    open_round.handle(failure(3))
    records = open_round.client_records()
    assert [record.malicious for record in records] == [None, True, True]
    assert [record.line().get("malicious", "unsaid") for record in records] == [
        "unsaid",
        True,
        True,
    ]


def test_asking_what_the_gate_makes_of_an_update_changes_nothing():
    halved = Codec(
        name="halved",
        encode=lambda channels, _context, _seed: (channels, {}),
        decode=lambda sent, _decoding: {name: value / 2 for name, value in sent.items()},
    )
    open_round = round_of((1, 2), compose(Part(name="halved", codecs=(halved,))))
    open_round.start(0.0)
    decoded = open_round.decoded(update_of(1, (1.0, -1.0)))
    assert decoded is not None
    assert decoded.channels["params"].tolist() == [0.5, -0.5]
    assert open_round.decoded(update_of(1, (float("nan"), 0.0))) is None
    assert (open_round.accepted(), open_round.bytes_up) == ([], 0)
    assert open_round.client_records()[0].status == "assigned"


def test_answers_admitted_together_become_what_each_becomes_alone():
    answers = [
        update_of(1, (1.0, 3.0), metrics=Metrics({"loss": 6.0}, 2)),
        failure(2).failure,
        update_of(3, num_examples=0),
        update_of(4, (3.0, 4.0)),
    ]
    together, alone = round_of((1, 2, 3, 4)), round_of((1, 2, 3, 4))
    verdicts = together.admit(answers)
    assert verdicts == [verdict for answer in answers for verdict in alone.admit([answer])]
    assert [verdict.record is not None for verdict in verdicts] == [True, False, False, True]
    assert verdicts[3].record is not None
    assert verdicts[3].record.update_norm == 5.0
    assert verdicts[1].failure == answers[1]
    assert verdicts[2].reason.startswith("num_examples = 0")
    context = RoundContext(round=1, population=4, selected=4, completed=2)
    sums = [round.accumulators.finish(context) for round in (together, alone)]
    assert bits(sums[0]) == bits(sums[1])
    assert round_of((1,)).admit([]) == []
