"""What comes in from nodes, and what they hear of it."""

from concurrent.futures import Future

import pytest

from roundel.core.errors import RunDirectoryError
from roundel.core.messages import ClientFailure
from roundel.server.arrivals import Arrival, settle_again, tell_when
from roundel.server.journal import Kept
from roundel.server.store import Store
from tests.server.toys import ticket_of, update_of


def kept(identity: bytes = b"i") -> Kept:
    return Kept(ticket=ticket_of(0), identity=identity, header=b"h")


def test_an_update_that_was_accepted_is_accepted_again_and_another_is_not():
    store = Store.in_memory()
    store.journal.accept(kept()).result(10)
    same, other = Arrival(update_of(0), kept()), Arrival(update_of(0), kept(b"other"))
    assert settle_again(same, store)
    assert same.verdict.result(10) is None
    assert not settle_again(other, store)
    assert not settle_again(Arrival(update_of(0)), store)
    assert not other.verdict.done()
    store.close()


def test_a_node_hears_that_it_was_accepted_when_that_is_durable_and_not_before():
    durable: Future[None] = Future()
    arrival = Arrival(update_of(0))
    tell_when(durable, arrival.verdict)
    assert not arrival.verdict.done()
    durable.set_result(None)
    assert arrival.verdict.result() is None


def test_a_node_hears_neither_yes_nor_no_of_what_cannot_be_kept():
    durable: Future[None] = Future()
    arrival = Arrival(update_of(0))
    tell_when(durable, arrival.verdict)
    durable.set_exception(RunDirectoryError("the disk is full"))
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        arrival.verdict.result()


def test_a_verdict_cannot_be_taken_back_by_who_waits_for_it():
    assert not Arrival(update_of(0)).verdict.cancel()


def test_failures_are_told_from_updates():
    failure = ClientFailure(ticket=ticket_of(0), stage="train", error="ValueError: no")
    assert [Arrival(answer).is_failure for answer in (failure, update_of(0))] == [True, False]
