"""What the coordinator must not forget: durable before it is told, and there after a crash."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roundel.core.errors import RunDirectoryError
from roundel.core.messages import ClientFailure, Evaluation
from roundel.core.metrics import Metrics
from roundel.server.journal import EndedRound, Journal, Kept
from roundel.server.judging import SURVEY_STAGE
from roundel.server.round import Outcome, Status
from tests.server.toys import ticket_of

TIMEOUT_S = 10.0


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "federation.db"


@pytest.fixture
def journal(path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def kept(client: int, payload: bytes = b"tensors", **changes) -> Kept:
    ticket = ticket_of(client, **changes)
    return Kept(ticket=ticket, identity=b"i%d" % client, header=b"h%d" % client, payload=payload)


def in_file(client: int, file: str, round: int = 1) -> Kept:
    ticket = ticket_of(client, round=round)
    return Kept(ticket=ticket, identity=b"i", header=b"h", file=file)


def reopened(journal: Journal, path: Path) -> Journal:
    journal.close()
    return Journal(path)


def accept(journal: Journal, *updates: Kept) -> None:
    for future in [journal.accept(update) for update in updates]:
        future.result(TIMEOUT_S)


def test_accepted_updates_are_there_after_the_journal_is_opened_again(journal, path):
    accept(journal, kept(3, attempt=2), kept(1), in_file(2, "a-file"), kept(1, round=2))
    again = reopened(journal, path)
    found = list(again.accepted_in(1))
    assert [(u.ticket.client_id, u.header, u.payload, u.file) for u in found] == [
        (1, b"h1", b"tensors", ""),
        (2, b"h", b"", "a-file"),
        (3, b"h3", b"tensors", ""),
    ]
    assert [u.ticket.attempt for u in found] == [0, 0, 2]
    assert again.files() == {"a-file"}
    assert not list(again.accepted_in(1, stage=1))
    again.close()


def test_one_update_of_a_round_can_be_read_by_itself(journal):
    accept(journal, kept(3), kept(1), kept(1, round=2))
    assert (journal.accepted_clients(1), journal.accepted_clients(9)) == ([1, 3], [])
    assert journal.accepted(3, 1).header == b"h3"


def test_the_very_update_that_was_accepted_is_known_again_and_no_other(journal, path):
    accept(journal, kept(1))
    again = reopened(journal, path)
    durable = again.acceptance(ticket_of(1), b"i1")
    assert durable is not None
    assert durable.done()
    assert again.acceptance(ticket_of(1, attempt=5), b"i1") is not None
    assert again.acceptance(ticket_of(1), b"other") is None
    assert again.acceptance(ticket_of(2), b"i1") is None
    again.close()


def test_what_waits_is_made_durable_by_one_commit(journal):
    began, go_on = threading.Event(), threading.Event()
    commits: list[str] = []
    journal._do(lambda c: c.set_trace_callback(commits.append)).result(TIMEOUT_S)

    def block(_connection: sqlite3.Connection) -> None:
        commits.clear()
        began.set()
        go_on.wait(TIMEOUT_S)

    blocking = journal._do(block)
    began.wait(TIMEOUT_S)  # what comes now waits
    futures = [journal.accept(kept(client)) for client in range(100)]
    go_on.set()
    for future in (blocking, *futures):
        future.result(TIMEOUT_S)
    assert sum(statement == "COMMIT" for statement in commits) == 2


def outcomes() -> dict[int, Outcome]:
    failure = ClientFailure(
        ticket=ticket_of(4, run="", attempt=1),
        stage="train",
        error="ValueError: no",
        location="task.py:3",
        traceback="Traceback\n",
    )
    return {
        7: Outcome(Status.ACCEPTED, 1),
        4: Outcome(Status.FAILED, 1, "ValueError: no", failure),
        9: Outcome(Status.LOST, 0, "its node is away"),
    }


def test_how_a_round_ended_comes_back_as_it_was(journal, path):
    ended = EndedRound(outcomes=outcomes(), bytes_up=10, bytes_down=30)
    journal.end_round(1, ended)
    again = reopened(journal, path)
    found = again.ended(1)
    assert found == ended
    assert found is not None
    assert list(found.outcomes) == [7, 4, 9]
    assert again.ended(2) is again.ended(1, stage=1) is None
    assert [again.last_round_of(client) for client in (7, 4, 9, 0)] == [1, 0, 0, 0]
    again.close()


def test_a_client_belongs_to_the_last_ended_round_that_accepted_it(journal, path):
    def end(round: int, *accepted: int) -> None:
        statuses = {c: Outcome(Status.ACCEPTED) for c in accepted}
        journal.end_round(round, EndedRound(outcomes=statuses, bytes_up=0, bytes_down=0))

    end(1, 1, 2)
    accept(journal, kept(1, round=2), kept(2, round=2))
    assert journal.last_round_of(2) == 1
    end(2, 1)
    journal.forget(2)
    again = reopened(journal, path)
    assert [again.last_round_of(client) for client in (1, 2, 3)] == [2, 1, 0]
    again.close()


def test_the_round_that_has_accepted_a_client_since_is_its_latest(journal, path):
    accept(journal, kept(1, round=3), kept(1, round=2), kept(2, round=1))
    journal.end_round(
        1, EndedRound(outcomes={2: Outcome(Status.ACCEPTED)}, bytes_up=0, bytes_down=0)
    )
    again = reopened(journal, path)
    assert [again.accepted_since(client) for client in (1, 2, 3)] == [3, 0, 0]
    again.forget(2)
    assert again.accepted_since(1) == 3
    again.forget(3)
    assert again.accepted_since(1) == 0
    again.close()


def test_what_has_ended_or_was_read_again_shares_one_future(journal, path):
    accept(journal, kept(1), kept(2), kept(3, round=2))
    futures = [journal.acceptance(ticket_of(client), b"i%d" % client) for client in (1, 2)]
    assert futures[0] is not futures[1]
    journal.end_round(1, EndedRound(outcomes={}, bytes_up=0, bytes_down=0))
    futures = [journal.acceptance(ticket_of(client), b"i%d" % client) for client in (1, 2)]
    assert futures[0] is futures[1] is not journal.acceptance(ticket_of(3, round=2), b"i3")
    assert futures[0] is not None
    assert futures[0].result(TIMEOUT_S) is None
    again = reopened(journal, path)
    both = again.acceptance(ticket_of(1), b"i1"), again.acceptance(ticket_of(3, round=2), b"i3")
    assert both[0] is both[1] is not None
    again.close()


def test_what_a_checkpoint_covers_is_forgotten_and_nothing_else(journal):
    accept(journal, kept(1), in_file(2, "old"), in_file(2, "new", round=2))
    nobody = EndedRound(outcomes={}, bytes_up=0, bytes_down=0)
    for round in (1, 2):
        journal.end_round(round, nobody)
        journal.keep_survey(round, SURVEY_STAGE, [evaluation(1, round)])
    assert journal.forgotten == 0
    journal.forget(1)
    assert journal.forgotten == 1
    assert journal.files() == {"new"}
    assert not list(journal.accepted_in(1))
    assert journal.acceptance(ticket_of(1), b"i1") is None
    assert [u.file for u in journal.accepted_in(2)] == ["new"]
    assert [journal.ended(round) for round in (1, 2)] == [None, nobody]
    # A survey for round 2 is one of the model of round 1, which the checkpoint has.
    assert journal.survey(1, SURVEY_STAGE)
    journal.forget(2)
    assert not journal.survey(1, SURVEY_STAGE)


def evaluation(client: int, round: int = 0) -> Evaluation:
    ticket = ticket_of(client, round=round, stage=SURVEY_STAGE)
    return Evaluation(ticket=ticket, metrics=Metrics({"loss": 0.1, "bad": float("inf")}, 3))


def test_answers_to_a_survey_come_back_to_the_bit_failures_too(journal, path):
    ticket = ticket_of(2, round=0, stage=SURVEY_STAGE)
    answers = [evaluation(1), ClientFailure(ticket=ticket, stage="evaluate", error="gone")]
    journal.keep_survey(0, SURVEY_STAGE, answers)
    again = reopened(journal, path)
    assert again.survey(0, SURVEY_STAGE) == {answer.ticket: answer for answer in answers}
    assert again.survey(1, SURVEY_STAGE) == {}
    again.close()


def test_a_fact_keeps_its_latest_value(journal, path):
    assert journal.fact("seats") is None
    for value in ("[]", '["a"]'):
        journal.set_fact("seats", value).result(TIMEOUT_S)
    again = reopened(journal, path)
    assert again.fact("seats") == '["a"]'
    again.close()


def test_nodes_are_written_down_for_people(journal, path):
    for cores in (1, 2):
        journal.saw_node("edge", {"cores": cores})
    journal.close()
    rows = sqlite3.connect(path).execute("SELECT name, capabilities FROM nodes").fetchall()
    assert rows == [("edge", '{"cores": 2}')]


def test_only_its_owner_can_read_it(journal, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_no_journal_is_one_sentence(path):
    path.write_bytes(b"this is not a database, and long enough to be looked at " * 20)
    with pytest.raises(RunDirectoryError, match=r"federation\.db: file is not a database;"):
        Journal(path)


def test_once_the_disk_is_full_nothing_more_is_acknowledged(journal, path):
    accept(journal, kept(1))

    def fill(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    journal._do(fill).result(TIMEOUT_S)
    failed = journal.accept(kept(2, b"x" * 200_000))
    with pytest.raises(RunDirectoryError) as caught:
        failed.result(TIMEOUT_S)
    assert str(caught.value) == (
        f"cannot write {path}: database or disk is full; free some space, then resume the run"
    )
    with pytest.raises(RunDirectoryError, match="disk is full"):
        journal.accept(kept(3)).result(TIMEOUT_S)
    again = reopened(journal, path)
    assert [u.ticket.client_id for u in again.accepted_in(1)] == [1]
    again.close()


CHILD = """
import sys
from pathlib import Path
from roundel.core.messages import Ticket
from roundel.server.journal import Journal, Kept

journal = Journal(Path(sys.argv[1]))
waiting = []
for client in range(10**6):
    ticket = Ticket(run="r", round=1, client_id=client)
    kept = Kept(ticket=ticket, identity=b"i", header=b"h", payload=b"p" * 999)
    waiting.append(journal.accept(kept))
    if len(waiting) == 20:
        for number, future in enumerate(waiting, client - 19):
            future.result()
            print(number, flush=True)
        waiting = []
"""


def test_what_was_acknowledged_before_the_process_was_killed_is_there(path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(50)]
    os.kill(child.pid, signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().splitlines()]
    child.wait()
    child.stdout.close()
    journal = Journal(path)
    found = {update.ticket.client_id for update in journal.accepted_in(1)}
    journal.close()
    assert set(told) <= found
    assert found == set(range(len(found)))
