"""Which clients have never kept anything is known for ever, and in doubt one may have."""

from contextlib import closing

import pytest

from roundel.core.messages import Ticket
from roundel.server.journal import EndedRound, Journal, Kept
from roundel.server.round import Outcome, Status
from roundel.simulations.flowerapps.served.keepers import Keepers


@pytest.fixture
def journal(tmp_path):
    with closing(Journal(tmp_path / "federation.db")) as journal:
        yield journal


def accept(journal, client, wave=1):
    ticket = Ticket(run="r", round=wave, client_id=client)
    journal.accept(Kept(ticket=ticket, identity=b"i", header=b"h")).result()


def end(journal, client, wave=1):
    outcomes = {client: Outcome(Status.ACCEPTED)}
    journal.end_round(wave, EndedRound(outcomes=outcomes, bytes_up=0, bytes_down=0))


def test_a_client_keeps_nothing_until_one_of_its_replies_says_otherwise(journal):
    keepers = Keepers(journal, ())
    found = []
    for wave, bare in ((1, True), (2, True), (3, False), (4, True)):
        keepers.note(2, bare=bare)
        accept(journal, 2, wave)
        end(journal, 2, wave)
        found.append([keepers.may_keep(2), Keepers(journal, [2]).may_keep(2)])
    assert found == [[False, False], [False, False], [True, True], [True, True]]


def test_of_whom_nothing_is_known_may_keep_something(journal):
    keepers = Keepers(journal, [0])
    assert keepers.may_keep(0)
    accept(journal, 0)  # by a release that took no note of it
    keepers.note(0, bare=True)
    assert keepers.may_keep(0)
    end(journal, 0)
    keepers.note(0, bare=True)
    assert keepers.may_keep(0)


def test_what_a_reply_says_that_was_never_accepted_binds_nobody(journal):
    Keepers(journal, ()).note(1, bare=False)
    again = Keepers(journal, [1])
    assert again.may_keep(1)
    again.note(1, bare=True)
    assert not again.may_keep(1)
