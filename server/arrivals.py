"""What comes in from nodes, for the thread that runs rounds; and what nodes are held to."""

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from roundel.core.errors import RunDirectoryError
from roundel.core.messages import ClientFailure, ClientUpdate, Evaluation, Ticket
from roundel.server.journal import Kept
from roundel.server.store import Store

NOBODY_WAITS = "it is late or a duplicate: nobody waits for it"

Answer = ClientUpdate | ClientFailure | Evaluation


def _any_client(_client: int) -> bool:
    return True


def _verdict() -> "Future[str | None]":
    """Return a future that a node which hangs up cannot cancel before somebody sets it."""
    verdict: Future[str | None] = Future()
    verdict.set_running_or_notify_cancel()
    return verdict


@dataclass(frozen=True)
class Arrival:
    """An answer from a node, and where to put what became of it.

    Attributes:
        answer: What came.
        kept: How the journal keeps it if it is accepted; None if it is no update.
        verdict: None for accepted, or the reason why not.
    """

    answer: Answer
    kept: Kept | None = None
    verdict: "Future[str | None]" = field(default_factory=_verdict)

    @property
    def is_failure(self) -> bool:
        """Whether it says that a client's work failed."""
        return isinstance(self.answer, ClientFailure)


@dataclass(frozen=True)
class Hosting:
    """A node has said what it hosts.

    Attributes:
        clients: Which clients.
    """

    clients: Collection[int]


Incoming = Arrival | Hosting | RunDirectoryError
"""The last of them if what came cannot be kept: the disk is full."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the coordinator tells nodes and holds them to.

    Attributes:
        run: The run's identity.
        experiment: The resolved experiment, as JSON.
        population: How many clients there are.
        fingerprint: What nodes must agree on; see `roundel.core.fingerprint`.
        update_limit: Largest payload of an update, in bytes.
        stateful: Whether the strategy keeps state at clients.
        rounds: How many rounds the run has; 0 if nobody knows.
        own_data: Whether every node brings the examples of one client, which it is told.
        may_keep: Tells, in any thread, whether a client may keep state by now, if any do: a node
            may come without that of a client which has none.
    """

    run: str
    experiment: str
    population: int
    fingerprint: str
    update_limit: int
    stateful: bool = False
    rounds: int = 0
    own_data: bool = False
    may_keep: Callable[[int], bool] = _any_client


class Intake(Protocol):
    """Takes in what comes, for the thread that runs rounds."""

    def submit(self, arrival: Incoming) -> None:
        """Take something in."""
        ...

    def objection_to(self, ticket: Ticket) -> str:
        """Say why an update with a ticket cannot count; empty if it may.

        It is asked before the update is taken in, by the threads that answer calls.
        """
        ...

    def note_wait(self, node: str, wait_s: float) -> None:
        """Take in how long a node says that its call has waited before it was accepted."""
        ...


def is_awaited(_ticket: Ticket) -> str:
    """Object to no update: which round comes next is not known yet."""
    return ""


def is_late(_ticket: Ticket) -> str:
    """Object to every update: no round is open."""
    return NOBODY_WAITS


def settle_again(arrival: Arrival, store: Store) -> bool:
    """Give an update that was accepted before the same verdict again; tell whether it was."""
    kept = arrival.kept
    durable = None if kept is None else store.journal.acceptance(kept.ticket, kept.identity)
    if kept is None or durable is None:
        return False
    store.drop(kept.file)  # it has come twice
    tell_when(durable, arrival.verdict)
    return True


def tell_when(durable: "Future[None]", verdict: "Future[str | None]") -> None:
    """Let an update be known as accepted once it is durable, or its node try again if it is not."""

    def tell(done: "Future[None]") -> None:
        if (error := done.exception()) is not None:
            verdict.set_exception(error)
        else:
            verdict.set_result(None)

    durable.add_done_callback(tell)
