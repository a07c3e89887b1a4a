"""Rounds that an earlier process had begun: what the journal knows of them is fed to them again."""

from dataclasses import replace

from roundel.core.errors import RunFailed
from roundel.core.messages import ClientUpdate, Ticket
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import update_from_wire
from roundel.core.wire.payload import unpack
from roundel.server.journal import EndedRound, Kept
from roundel.server.open_round import OpenRound
from roundel.server.round import (
    ClientFailed,
    ClientLost,
    DeadlinePassed,
    Instruction,
    Outcome,
    Status,
    UpdateArrived,
    UpdateJudged,
)
from roundel.server.store import Store


def feed_accepted(open_round: OpenRound, store: Store) -> list[Instruction]:
    """Feed the updates to a round that it had accepted; return the instructions that follow."""
    terms = open_round.machine.terms
    instructions: list[Instruction] = []
    for kept in store.journal.accepted_in(terms.round, terms.stage):
        if open_round.ended is None and kept.ticket.client_id in open_round.machine.outcomes:
            update = _update(open_round, store, kept)
            instructions += open_round.handle(UpdateArrived(update))
    return instructions


def end_again(open_round: OpenRound, ended: EndedRound, store: Store) -> None:
    """Let a round that has started end as it did.

    Raises:
        RunFailed: It asks other clients than it did.
    """
    terms = open_round.machine.terms
    if set(terms.cohort) != set(ended.outcomes):
        raise RunFailed(
            f"round {terms.round} asks other clients now than when it ended; resume with the code "
            "and the libraries that the run began with"
        )
    for client_id, outcome in ended.outcomes.items():
        _repeat(open_round, client_id, outcome)
    feed_accepted(open_round, store)
    if open_round.ended is None:
        open_round.handle(DeadlinePassed())
    open_round.bytes_up, open_round.bytes_down = ended.bytes_up, ended.bytes_down
    again = [c for c, o in ended.outcomes.items() if o.status is Status.ACCEPTED]
    if open_round.accepted() != sorted(again):
        raise RunFailed(
            f"round {terms.round} had accepted the updates of clients {sorted(again)}, and now "
            f"accepts those of {open_round.accepted()}; resume with the code and the libraries "
            "that the run began with"
        )


def end_of(open_round: OpenRound) -> EndedRound:
    """Return how a round has ended, for the journal."""
    return EndedRound(
        outcomes=open_round.machine.outcomes,
        bytes_up=open_round.bytes_up,
        bytes_down=open_round.bytes_down,
    )


def _repeat(open_round: OpenRound, client_id: int, outcome: Outcome) -> None:
    """Feed what became of a client whose update does not count."""
    if open_round.machine.outcomes[client_id].status is not Status.ASSIGNED:
        return  # absent on purpose, once more
    ticket = _ticket(open_round, client_id)
    match outcome.status:
        case Status.FAILED if outcome.failure is not None:
            open_round.handle(ClientFailed(replace(outcome.failure, ticket=ticket)))
        case Status.REJECTED:
            open_round.handle(UpdateJudged(ticket, outcome.reason))
        case Status.LOST:
            open_round.handle(ClientLost(client_id, outcome.reason))
        case _:
            pass


def _update(open_round: OpenRound, store: Store, kept: Kept) -> ClientUpdate:
    """Return an update from the journal, as an answer to what its client is asked now."""
    header = pb.UpdateHeader.FromString(kept.header)
    update = update_from_wire(header, unpack(store.load(kept)))
    return replace(update, ticket=_ticket(open_round, kept.ticket.client_id))


def _ticket(open_round: OpenRound, client_id: int) -> Ticket:
    terms = open_round.machine.terms
    return Ticket(
        run=terms.run,
        round=terms.round,
        client_id=client_id,
        stage=terms.stage,
        attempt=open_round.machine.outcomes[client_id].attempt,
    )
