"""What a coordinator must not forget, on disk before anybody is told: one SQLite file.

An update counts for its node once it is here. All writing is done by one thread, which takes
whatever waits and makes it durable together, so that many acknowledgements share one fsync.

    rounds    those that have ended: what became of each client
    updates   those that were accepted: header, and the payload or the file that holds it
    surveys   answers of clients that were asked before a cohort was selected
    clients   for each client, the last ended round that accepted it
    nodes     who has joined, for people to see
    facts     single values, such as who has which seat
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from roundel.core.errors import RunDirectoryError
from roundel.core.messages import ClientFailure, Evaluation, Ticket
from roundel.core.private import make_private
from roundel.server.entries import (
    answer_from_json,
    answer_to_json,
    outcomes_from_json,
    outcomes_to_json,
)
from roundel.server.round import Outcome, Status

ResultT = TypeVar("ResultT")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER NOT NULL, stage INTEGER NOT NULL,
    outcomes TEXT NOT NULL, bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL,
    PRIMARY KEY (round, stage));
CREATE TABLE IF NOT EXISTS updates (
    round INTEGER NOT NULL, stage INTEGER NOT NULL, client INTEGER NOT NULL,
    attempt INTEGER NOT NULL, identity BLOB NOT NULL, header BLOB NOT NULL, payload BLOB,
    file TEXT NOT NULL, PRIMARY KEY (round, stage, client));
CREATE TABLE IF NOT EXISTS surveys (
    round INTEGER NOT NULL, stage INTEGER NOT NULL, answers TEXT NOT NULL,
    PRIMARY KEY (round, stage));
CREATE TABLE IF NOT EXISTS clients (client INTEGER PRIMARY KEY, round INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS nodes (
    name TEXT PRIMARY KEY, capabilities TEXT NOT NULL, first_seen REAL NOT NULL,
    last_seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_MEMORY = ":memory:"
_FORGOTTEN = "forgotten"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An accepted update as the journal keeps it.

    Attributes:
        ticket: Of the update.
        identity: The same for an update that is sent again, in whatever session or attempt.
        header: As it came.
        payload: Its tensors, if they are few.
        file: The file that holds them otherwise; empty if none does.
    """

    ticket: Ticket
    identity: bytes
    header: bytes
    payload: bytes = b""
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class EndedRound:
    """A round that has ended and counts.

    Attributes:
        outcomes: What became of each client of the cohort.
        bytes_up: Tensor bytes that had arrived.
        bytes_down: Tensor bytes that were assigned.
    """

    outcomes: Mapping[int, Outcome]
    bytes_up: int
    bytes_down: int


@dataclass
class _Job:
    """Something to be written or read, and where to put what came of it."""

    work: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Journal:
    """The journal of one run, open for this process alone; every method is for any thread."""

    def __init__(self, path: Path | None = None) -> None:
        """Open a journal, and make it if there is none.

        Args:
            path: Its file; None for one that is forgotten with this process.

        Raises:
            RunDirectoryError: It cannot be opened, or is none.
        """
        self._path = path
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._trouble: RunDirectoryError | None = None
        self._accepted: dict[tuple[int, int], dict[int, tuple[bytes, Future[None]]]] = {}
        self._accepted_last: dict[int, int] = {}
        self._last_rounds: dict[int, int] = {}
        self._durable: Future[None] = Future()  # one for all that has been so for long
        self._durable.set_result(None)
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._write, args=(opened,), name="journal", daemon=True
        )
        self._thread.start()
        opened.result()

    def accept(self, kept: Kept) -> "Future[None]":
        """Keep an accepted update; the future is done once it is durable.

        It fails with `RunDirectoryError` if it cannot be.
        """
        ticket = kept.ticket

        done = self._put(
            "INSERT OR REPLACE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(ticket.round, ticket.stage, ticket.client_id, ticket.attempt),
            *(kept.identity, kept.header, kept.payload or None, kept.file),
        )
        with self._lock:
            entries = self._accepted.setdefault((ticket.round, ticket.stage), {})
            entries[ticket.client_id] = (kept.identity, done)
            self._note_accepted(ticket.client_id, ticket.round)
        return done

    def acceptance(self, ticket: Ticket, identity: bytes) -> "Future[None] | None":
        """Return what `accept` returned for this very update; None if it was not accepted."""
        with self._lock:
            entry = self._accepted.get((ticket.round, ticket.stage), {}).get(ticket.client_id)
        return entry[1] if entry is not None and entry[0] == identity else None

    def accepted_in(self, round: int, stage: int = 0) -> Iterator[Kept]:
        """Yield the accepted updates of a round by client, each read when it is its turn."""
        for client in self.accepted_clients(round, stage):
            yield self.accepted(client, round, stage)

    def accepted_clients(self, round: int, stage: int = 0) -> list[int]:
        """Return the clients of which an update was accepted in a round, sorted."""
        with self._lock:
            return sorted(self._accepted.get((round, stage), {}))

    def accepted(self, client: int, round: int, stage: int = 0) -> Kept:
        """Return the update of a client that was accepted in a round; there must be one."""
        return self._do(partial(_kept, round=round, stage=stage, client=client)).result()

    def end_round(self, round: int, ended: EndedRound, stage: int = 0) -> None:
        """Write down how a round ended; it is durable when this returns.

        Args:
            round: The round, from 1.
            ended: What became of its clients.
            stage: Of a reduction in several stages.
        """
        accepted = [c for c, o in ended.outcomes.items() if o.status is Status.ACCEPTED]
        outcomes = outcomes_to_json(ended.outcomes)

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?, ?)",
                (round, stage, outcomes, ended.bytes_up, ended.bytes_down),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO clients VALUES (?, ?)",
                [(client, round) for client in accepted],
            )

        self._do(insert).result()
        with self._lock:
            self._last_rounds.update(dict.fromkeys(accepted, round))
            entries = self._accepted.get((round, stage), {})
            durable = {c: (i, self._durable) for c, (i, done) in entries.items() if done.done()}
            entries.update(durable)

    def ended(self, round: int, stage: int = 0) -> EndedRound | None:
        """Return how a round ended; None if it has not, or is forgotten."""

        def select(connection: sqlite3.Connection) -> EndedRound | None:
            row = connection.execute(
                "SELECT outcomes, bytes_up, bytes_down FROM rounds WHERE round = ? AND stage = ?",
                (round, stage),
            ).fetchone()
            if row is None:
                return None
            outcomes = outcomes_from_json(row[0], round, stage)
            return EndedRound(outcomes=outcomes, bytes_up=row[1], bytes_down=row[2])

        return self._do(select).result()

    def last_round_of(self, client: int) -> int:
        """Return the last ended round that accepted a client; 0 for none."""
        with self._lock:
            return self._last_rounds.get(client, 0)

    def accepted_since(self, client: int) -> int:
        """Return the round after the last ended one that has accepted a client; 0 for none."""
        with self._lock:
            accepted = self._accepted_last.get(client, 0)
            return accepted if accepted > self._last_rounds.get(client, 0) else 0

    def check(self) -> None:
        """Raise what keeps the journal from being written, if anything does.

        Raises:
            RunDirectoryError: Something could not be made durable.
        """
        if self._trouble is not None:
            raise self._trouble

    def keep_survey(
        self, round: int, stage: int, answers: Iterable[Evaluation | ClientFailure]
    ) -> None:
        """Write down what clients answered before a cohort is selected; durable on return."""
        text = json.dumps([answer_to_json(answer) for answer in answers])
        self._put("INSERT OR REPLACE INTO surveys VALUES (?, ?, ?)", round, stage, text).result()

    def survey(self, round: int, stage: int) -> dict[Ticket, Evaluation | ClientFailure]:
        """Return what `keep_survey` was given, by ticket; nothing if there was no such survey."""

        def select(connection: sqlite3.Connection) -> str:
            row = connection.execute(
                "SELECT answers FROM surveys WHERE round = ? AND stage = ?", (round, stage)
            ).fetchone()
            return "[]" if row is None else row[0]

        answers = [answer_from_json(entry) for entry in json.loads(self._do(select).result())]
        return {answer.ticket: answer for answer in answers}

    def saw_node(self, name: str, capabilities: Mapping[str, Any]) -> None:
        """Note that a node has joined, without waiting until that is durable."""
        now = time.time()
        self._put(
            "INSERT INTO nodes VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "capabilities = excluded.capabilities, last_seen = excluded.last_seen",
            *(name, json.dumps(dict(capabilities)), now, now),
        )

    def set_fact(self, name: str, value: str) -> "Future[None]":
        """Keep a value in place of the one before; the future is done once it is durable."""
        return self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    def fact(self, name: str) -> str | None:
        """Return a value that was kept."""

        def select(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row[0])

        return self._do(select).result()

    def files(self) -> set[str]:
        """Return the files that hold payloads of accepted updates."""
        rows: list[tuple[str]] = self._do(
            lambda c: c.execute("SELECT file FROM updates WHERE file != ''").fetchall()
        ).result()
        return {file for (file,) in rows}

    def forget(self, round: int) -> None:
        """Drop the updates and the ends of all rounds up to one, which a checkpoint covers.

        Nobody waits until that is durable: what a crash leaves is dropped the next time.
        """

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM updates WHERE round <= ?", (round,))
            connection.execute("DELETE FROM rounds WHERE round <= ?", (round,))
            connection.execute("DELETE FROM surveys WHERE round < ?", (round,))

        self._do(delete)
        self.set_fact(_FORGOTTEN, str(round))
        with self._lock:
            self._accepted = {key: e for key, e in self._accepted.items() if key[0] > round}
            self._accepted_last = {c: r for c, r in self._accepted_last.items() if r > round}

    @property
    def forgotten(self) -> int:
        """The last round about which everything was dropped; 0 for none."""
        return int(self.fact(_FORGOTTEN) or 0)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._jobs.put(None)
        self._thread.join()

    def _put(self, statement: str, *values: str | float | bytes | None) -> "Future[None]":
        """Execute one statement; the future is done once it is durable."""

        def execute(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        return self._do(execute)

    def _do(self, work: "Callable[[sqlite3.Connection], ResultT]") -> "Future[ResultT]":
        """Let the writer do something; the future is done once it is durable."""
        done: Future[ResultT] = Future()
        done.set_running_or_notify_cancel()  # whoever waits cannot take it back by hanging up
        self._jobs.put(_Job(work, done))
        return done

    def _write(self, opened: "Future[None]") -> None:
        """Do jobs until the journal is closed: the thread's whole life."""
        try:
            connection = self._open()
        except (sqlite3.Error, OSError) as error:
            opened.set_exception(self._sentence(error))
            return
        opened.set_result(None)
        going_on = True
        while going_on:
            batch, going_on = self._batch()
            self._commit(connection, batch)
        connection.close()

    def _batch(self) -> tuple[list[_Job], bool]:
        """Wait for a job; return all that wait by then, and whether more can come."""
        job = self._jobs.get()
        batch: list[_Job] = []
        try:
            while job is not None:
                batch.append(job)
                job = self._jobs.get_nowait()
        except Empty:
            return batch, True
        return batch, False

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job]) -> None:
        """Do jobs in one transaction, and tell everybody once it is durable."""
        if not batch:
            return
        try:
            self.check()
            connection.execute("BEGIN")
            results = [job.work(connection) for job in batch]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            if connection.in_transaction:
                connection.rollback()
            self._trouble = self._trouble or self._sentence(error)
            for job in batch:
                job.done.set_exception(self._trouble)
            return
        for job, result in zip(batch, results, strict=True):
            job.done.set_result(result)

    def _open(self) -> sqlite3.Connection:
        if self._path is not None:
            make_private(self._path)
        connection = sqlite3.connect(self._path or _MEMORY, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        for row in connection.execute("SELECT round, stage, client, identity FROM updates"):
            self._accepted.setdefault((row[0], row[1]), {})[row[2]] = (row[3], self._durable)
            self._note_accepted(row[2], row[0])
        self._last_rounds.update(connection.execute("SELECT client, round FROM clients"))
        return connection

    def _note_accepted(self, client: int, round: int) -> None:
        self._accepted_last[client] = max(round, self._accepted_last.get(client, 0))

    def _sentence(self, error: Exception) -> RunDirectoryError:
        return RunDirectoryError(
            f"cannot write {self._path or 'the journal'}: {error}; free some space, then resume "
            "the run"
        )


def _kept(connection: sqlite3.Connection, round: int, stage: int, client: int) -> Kept:
    run_round = (round, stage, client)
    attempt, identity, header, payload, file = connection.execute(
        "SELECT attempt, identity, header, payload, file FROM updates "
        "WHERE round = ? AND stage = ? AND client = ?",
        run_round,
    ).fetchone()
    ticket = Ticket(run="", round=round, client_id=client, stage=stage, attempt=attempt)
    return Kept(ticket=ticket, identity=identity, header=header, payload=payload or b"", file=file)
