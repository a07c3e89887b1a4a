"""What was asked in the run of an app over nodes, and what came of it: durably, and for ever.

A ServerApp is somebody's code, whose memory cannot be saved. But all that it learns are replies,
and all that it draws comes from the seed. So one that was interrupted is started anew, and hears
again what it has heard, up to the first message that was not answered: from a `Record`.

Messages are known by their client and by how many that client got before, which is the same in each
start even if threads of the app race. What is sent together is a wave, the round of the wire.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from blake3 import blake3

from roundel.core.errors import RunFailed
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import update_from_wire
from roundel.core.wire.payload import unpack
from roundel.server.journal import EndedRound, Kept
from roundel.server.round import Outcome, Status
from roundel.server.store import Store
from roundel.simulations.flowerapps.parcels import Answer, Task, Trouble
from roundel.simulations.flowerapps.served.keepers import Keepers
from roundel.simulations.flowerapps.served.wired import reply_of

RAISED, AWAY = 2, 5
"""Flower's codes for a client that has raised, and for a node that is not there."""

_FACT = "wave {}"
_DIGEST = 16  # bytes

Key = tuple[int, int]
"""A client, and which of the messages to it."""


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Messages that were sent together.

    Attributes:
        number: From 1.
        began_s: When, in seconds since 1970.
        digests: What each message asked.
    """

    number: int
    began_s: float
    digests: Mapping[Key, str]


class Record:
    """The waves of a run.

    Attributes:
        last: The number of the last one that was begun; 0 for none.
        keepers: Which clients have kept something.
    """

    def __init__(self, store: Store) -> None:
        """Read what earlier processes have written."""
        self._store = store
        asked: set[int] = set()
        self._unheard: dict[Key, tuple[int, str]] = {}  # by earlier processes: wave and digest
        self._ended: dict[int, EndedRound] = {}
        self.last = 0
        self._last: Wave | None = None
        while wave := self._read(self.last + 1):
            self.last, self._last = wave.number, wave
            self._unheard.update(
                {key: (wave.number, digest) for key, digest in wave.digests.items()}
            )
            asked |= {client for client, _ in wave.digests}
        self.keepers = Keepers(store.journal, asked)

    @property
    def open(self) -> Wave | None:
        """The wave that was begun and has not ended."""
        last = self._last
        return last if last and self._end_of(last.number) is None else None

    def answer(self, task: Task, digest: str) -> Answer | None:
        """Return, once, what a message to an earlier process was answered; None if it was not.

        Args:
            task: The message.
            digest: What it asks.

        Raises:
            RunFailed: It asks something else than before.
        """
        key = task.client, task.number
        if key not in self._unheard:
            return None
        number, before = self._unheard[key]
        if before != digest:
            raise _departure(f"message {task.number} to client {task.client} is another one")
        del self._unheard[key]
        ended = self._end_of(number)
        if ended is None:
            accepted = task.client in self._store.journal.accepted_clients(number)
            outcome = Outcome(Status.ACCEPTED) if accepted else None
        else:
            outcome = ended.outcomes.get(task.client)
        return None if outcome is None else self._answer(number, task.client, outcome)

    def check_heard(self) -> None:
        """Refuse to go on before all messages were sent again that there had been.

        Raises:
            RunFailed: One was not.
        """
        if self._unheard:
            client, number = min(self._unheard, key=lambda key: (self._unheard[key][0], key))
            raise _departure(f"message {number} to client {client} is not sent any more")

    def goes_on(self, keys: Collection[Key]) -> bool:
        """Tell whether the open wave goes on with these messages: some are its own, all fit."""
        before = self.open
        return (
            before is not None
            and any(key in before.digests for key in keys)
            and _fit(before.digests, keys)
        )

    def fits(self, keys: Collection[Key]) -> bool:
        """Tell whether the open wave, if there is one, may have these messages.

        It may not have two to one client: their replies would have one ticket, and the second one
        take the place of the first.
        """
        before = self.open
        return before is None or _fit(before.digests, keys)

    def begin(self, digests: Mapping[Key, str], now_s: float) -> Wave:
        """Write down what is asked before anybody is; durable on return.

        The wave that is open goes on if it does by `goes_on`; else there must be none.

        Args:
            digests: What each message asks.
            now_s: Seconds since 1970.
        """
        before = self.open
        if before is not None and self.goes_on(digests):
            wave = Wave(
                number=before.number,
                began_s=before.began_s,
                digests={**before.digests, **digests},
            )
        else:
            wave = Wave(number=self.last + 1, began_s=now_s, digests=digests)
        asked = [[*key, digest] for key, digest in wave.digests.items()]
        text = json.dumps({"began_s": wave.began_s, "asked": asked})
        self._store.journal.set_fact(_FACT.format(wave.number), text).result()
        self.last, self._last = wave.number, wave
        return wave

    def accept(self, kept: Kept, *, bare: bool) -> "Future[None]":
        """Keep a reply that counts; the future is done once it is durable.

        Args:
            kept: The reply.
            bare: Whether its client keeps nothing.
        """
        self.keepers.note(kept.ticket.client_id, bare=bare)
        return self._store.journal.accept(kept)

    def end(self, number: int, outcomes: Mapping[int, Outcome]) -> list[int]:
        """Write down what became of a wave; durable on return.

        Args:
            number: Of the wave.
            outcomes: Of those who were asked in this process.

        Returns:
            The clients whose replies count, those to an earlier process included.
        """
        journal = self._store.journal
        before = dict.fromkeys(journal.accepted_clients(number), Outcome(Status.ACCEPTED))
        ended = EndedRound(outcomes={**before, **outcomes}, bytes_up=0, bytes_down=0)
        journal.end_round(number, ended)
        self._ended = {number: ended}
        return sorted(c for c, o in ended.outcomes.items() if o.status is Status.ACCEPTED)

    def _answer(self, number: int, client: int, outcome: Outcome) -> Answer:
        if outcome.status is not Status.ACCEPTED:
            return answer_to(outcome)
        kept = self._store.journal.accepted(client, number)
        header = pb.UpdateHeader.FromString(kept.header)
        return reply_of(update_from_wire(header, unpack(self._store.load(kept))).channels)

    def _end_of(self, number: int) -> EndedRound | None:
        if number not in self._ended:
            ended = self._store.journal.ended(number)
            if ended is None:
                return None
            self._ended = {number: ended}  # they are asked for one after the other
        return self._ended[number]

    def _read(self, number: int) -> Wave | None:
        text = self._store.journal.fact(_FACT.format(number))
        if text is None:
            return None
        said = json.loads(text)
        digests = {(client, which): digest for client, which, digest in said["asked"]}
        return Wave(number=number, began_s=said["began_s"], digests=digests)


def answer_to(outcome: Outcome) -> Answer:
    """Return what a ServerApp hears of a message that was not answered."""
    failure = outcome.failure
    match outcome.status:
        case Status.FAILED if failure is not None:
            trouble = Trouble(
                code=RAISED,
                reason=failure.error,
                location=failure.location,
                traceback=failure.traceback,
            )
        case Status.UNFINISHED:
            return Answer(late=True)
        case Status.LOST:
            trouble = Trouble(code=AWAY, reason=outcome.reason)
        case _:
            trouble = Trouble(code=RAISED, reason=outcome.reason)
    return Answer(trouble=trouble)


def digests_of(tasks: Sequence[Task]) -> dict[Key, str]:
    """Return what each of several messages asks, but for when it was made and how long it is good.

    Each buffer is hashed once, however many messages refer to it.
    """
    hashes: dict[int, bytes] = {}

    def hashed(buffer: bytes) -> bytes:
        if id(buffer) not in hashes:
            hashes[id(buffer)] = blake3(buffer).digest()
        return hashes[id(buffer)]

    def digest(task: Task) -> str:
        about = [task.metadata[name] for name in ("message_type", "group_id")]
        whole = blake3(json.dumps([about, task.content.records]).encode())
        for buffer in task.content.buffers:
            whole.update(hashed(buffer))
        return whole.hexdigest(_DIGEST)

    return {(task.client, task.number): digest(task) for task in tasks}


def _fit(there: Collection[Key], keys: Collection[Key]) -> bool:
    """Tell whether no client has two messages among these."""
    together = {*there, *keys}
    return len({client for client, _ in together}) == len(together)


def _departure(what: str) -> RunFailed:
    return RunFailed(
        f"the ServerApp asks something else than before it was interrupted: {what}; it depends on "
        "something besides its seed and the replies, such as the time; let it draw from Python's, "
        "NumPy's or torch's global generators, or start a new run"
    )
