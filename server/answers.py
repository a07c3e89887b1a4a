"""Takes in what clients answer, updates part by part, and waits for the verdicts."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from roundel.core.errors import ProtocolError, RunDirectoryError
from roundel.core.messages import Ticket
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_from_wire, update_from_wire
from roundel.core.wire.payload import Receiver, unpack
from roundel.server.arrivals import Arrival, Intake
from roundel.server.journal import Kept
from roundel.server.nodes import Node, Unfinished
from roundel.server.spool import BATCH, SendAgain, SpoolReceiver
from roundel.server.store import IN_JOURNAL, Store
from roundel.server.verdicts import Verdict

_UNDECIDED = 32
"""Answers of a node that may wait for their verdicts; it sends one after the other."""

ReplyT = TypeVar("ReplyT")
Report: TypeAlias = pb.UpdateHeader | pb.FailureReport | pb.EvaluationReport
UploadPart: TypeAlias = pb.UploadPart | memoryview
"""The header of an upload, or a piece of its payload."""

Owner: TypeAlias = Callable[[str, int], Node[pb.Work]]
"""Session and client to the node that calls; refuses one that does not host that client."""


class Answers:
    """Takes answers in; each of them can be sent again. Used on the event loop alone."""

    def __init__(self, store: Store, intake: Intake, update_limit: int) -> None:
        """Begin to take in.

        Args:
            store: Keeps what is acknowledged.
            intake: Takes in what comes, for the thread that runs rounds.
            update_limit: Largest payload of an update, in bytes.
        """
        self._store = store
        self._intake = intake
        self._update_limit = update_limit
        self._unattended: set[asyncio.Task[pb.Verdict]] = set()

    async def upload(self, parts: AsyncIterator[UploadPart], owner: Owner) -> pb.Verdict:
        """Take an update in; one that is sent again gets the verdict that it got.

        Args:
            parts: Its header, then its payload.
            owner: Says which node calls.

        Raises:
            ProtocolError: It is no update of this node.
            SendAgain: It can be taken in later.
            RunDirectoryError: The disk is full.
        """
        first = await anext(parts, None)
        if not isinstance(first, pb.UploadPart) or first.WhichOneof("part") != "header":
            raise ProtocolError("an upload must begin with its header")
        header = first.header
        node = owner(header.session, header.ticket.client_id)
        key, identity = _key(header), _identity(header)
        if (verdict := node.verdicts.find(key)) is not None:
            return await _verdict_of(verdict)
        ticket = ticket_from_wire(header.ticket)
        if durable := self._store.journal.acceptance(ticket, identity):
            await asyncio.wrap_future(durable)
            return pb.Verdict(accepted=True)
        if objection := self._intake.objection_to(ticket):
            return self._refused(node, ticket, objection)
        _check_waits_for_few(node)
        unfinished = await self._unfinished(node, header, ticket)
        await self._receive(node, unfinished, parts)
        return await self._to_its_end(self._finish(node, header, unfinished, key, identity))

    async def report(
        self, node: Node[pb.Work], report: pb.FailureReport | pb.EvaluationReport, arrival: Arrival
    ) -> pb.Verdict:
        """Take in a report, which is a message of its own.

        Args:
            node: Sent it.
            report: As it came.
            arrival: What it says.

        Raises:
            SendAgain: It can be taken in later.
        """
        return await self._judge(node, _key(report), arrival)

    async def progress(self, node: Node[pb.Work], ticket: Ticket, digest: bytes) -> int:
        """Return how many bytes of an upload have arrived, also in an earlier session."""
        found = node.unfinished
        if found is not None and _is_of(found, ticket, digest):
            return found.receiver.filled
        return await asyncio.to_thread(self._store.arrived, ticket, digest)

    async def kept(self, writing: Awaitable[ReplyT]) -> ReplyT:
        """Wait until something is written; if the disk is full, that ends the run.

        Raises:
            RunDirectoryError: It is.
        """
        try:
            return await writing
        except RunDirectoryError as error:
            self._intake.submit(error)
            raise

    def _refused(self, node: Node[pb.Work], ticket: Ticket, why: str) -> pb.Verdict:
        """Refuse an update before a byte of it is taken in, and forget what has arrived of it."""
        node.failures += 1
        if node.unfinished is not None and node.unfinished.ticket == ticket:
            self._store.drop(_file_of(node.unfinished))
            node.unfinished = None
        return pb.Verdict(accepted=False, reason=why)

    async def _unfinished(
        self, node: Node[pb.Work], header: pb.UpdateHeader, ticket: Ticket
    ) -> Unfinished:
        """Return what takes the parts of an upload in, which may go on where it broke off.

        A call that still takes parts of it in stops to.
        """
        payload, before = header.payload, node.unfinished
        same = before is not None and _is_of(before, ticket, payload.digest)
        if before is not None and same and header.offset:
            receiver = before.receiver
        else:
            if not same:
                self._store.drop(_file_of(before))  # a node has one unfinished upload
                node.unfinished = before = None
            make = partial(
                self._store.receiver, ticket, payload.digest, payload.size, self._update_limit
            )
            receiver = await self.kept(_done(make, payload.size))
            self._check_alone(node, before, receiver)
            if header.offset and not receiver.filled:
                raise ProtocolError("nothing has arrived of the upload that is to go on")
        if receiver.filled != header.offset:
            receiver.rewind(header.offset)
        node.unfinished = Unfinished(ticket, payload.digest, receiver)
        return node.unfinished

    def _check_alone(
        self, node: Node[pb.Work], before: Unfinished | None, receiver: Receiver | SpoolReceiver
    ) -> None:
        """Refuse an upload if its node has begun another one meanwhile.

        Raises:
            SendAgain: It has.
        """
        file = receiver.name if isinstance(receiver, SpoolReceiver) else ""
        if node.unfinished is not before and _file_of(node.unfinished) != file:
            self._store.drop(file)
            raise SendAgain(f"node {node.name!r} has begun another upload; send this one after it")

    async def _receive(
        self, node: Node[pb.Work], unfinished: Unfinished, parts: AsyncIterator[UploadPart]
    ) -> None:
        """Take parts in until no more come."""
        receiver = unfinished.receiver
        spooled = receiver if isinstance(receiver, SpoolReceiver) else None
        try:
            async for part in parts:
                if not isinstance(part, memoryview):
                    raise ProtocolError("an upload has one header only")
                if node.unfinished is not unfinished:
                    raise ProtocolError("this upload goes on in another call")
                receiver.take(part)
                node.bytes_up += len(part)
                if spooled and spooled.waiting >= BATCH:
                    await self.kept(asyncio.to_thread(spooled.flush))
        finally:
            if spooled:  # however it ended: what has arrived need not come again
                await self.kept(asyncio.to_thread(spooled.flush))

    async def _finish(
        self,
        node: Node[pb.Work],
        header: pb.UpdateHeader,
        unfinished: Unfinished,
        key: bytes,
        identity: bytes,
    ) -> pb.Verdict:
        """Judge an update that has arrived."""
        if unfinished.receiver.complete and node.unfinished is unfinished:
            node.unfinished = None
        return await self._judge(node, key, await self._arrival(header, unfinished, identity))

    async def _arrival(
        self, header: pb.UpdateHeader, unfinished: Unfinished, identity: bytes
    ) -> Arrival:
        """Return an update that has arrived."""
        finish = partial(self._store.finish, unfinished.receiver)
        data, file = await self.kept(_done(finish, header.payload.size))
        try:
            update = update_from_wire(header, unpack(data))
        except BaseException:
            self._store.drop(file)
            raise
        plain = pb.UpdateHeader()
        plain.CopyFrom(header)
        plain.ClearField("session")
        kept = Kept(
            ticket=update.ticket,
            identity=identity,
            header=plain.SerializeToString(),
            payload=b"" if file else bytes(data),
            file=file,
        )
        return Arrival(update, kept)

    async def _judge(self, node: Node[pb.Work], key: bytes, arrival: Arrival) -> pb.Verdict:
        """Hand an answer to the thread that runs rounds, and wait for what it says.

        What was answered before gets the verdict that it got then.
        """
        if (before := node.verdicts.find(key)) is not None:
            self._store.drop(arrival.kept.file if arrival.kept else "")  # it has come twice
            return await _verdict_of(before)
        if arrival.kept is None:
            _check_waits_for_few(node)
        decided, is_failure = arrival.verdict, arrival.is_failure
        node.verdicts.add(key, decided, len(node.clients))
        self._intake.submit(arrival)
        del arrival  # as large as a model: that thread alone says when it can go
        verdict = await self.kept(_verdict_of(decided))
        node.verdicts.settled(key)
        node.failures += not verdict.accepted or is_failure
        return verdict

    async def _to_its_end(self, judging: Coroutine[Any, Any, pb.Verdict]) -> pb.Verdict:
        """Do something to its end, even if the node hangs up meanwhile."""
        task = asyncio.create_task(judging)
        self._unattended.add(task)

        def over(task: asyncio.Task[pb.Verdict]) -> None:
            self._unattended.discard(task)
            if not task.cancelled():
                task.exception()  # a node that has hung up does not want to know

        task.add_done_callback(over)
        return await asyncio.shield(task)


def _check_waits_for_few(node: Node[pb.Work]) -> None:
    """Refuse a further answer of a node that does not wait for the verdicts on those before it.

    Raises:
        SendAgain: It may come again later.
    """
    if node.verdicts.undecided() >= _UNDECIDED:
        raise SendAgain(
            f"{_UNDECIDED} answers of node {node.name!r} wait for their verdicts, which is all "
            "that may; send this one when one of them has come"
        )


def _key(answer: Report) -> bytes:
    """Return what is the same if an answer is sent again in the same session."""
    whole = answer
    if isinstance(answer, pb.UpdateHeader):
        whole = pb.UpdateHeader()
        whole.CopyFrom(answer)
        whole.offset = 0  # wherever it begins, it is the same upload
    return hashlib.sha256(whole.SerializeToString(deterministic=True)).digest()


def _identity(header: pb.UpdateHeader) -> bytes:
    """Return what is the same if an update is sent again, in whatever session and attempt."""
    whole = pb.UpdateHeader()
    whole.CopyFrom(header)
    for field in ("session", "offset"):
        whole.ClearField(field)
    whole.ticket.attempt = 0
    return hashlib.sha256(whole.SerializeToString(deterministic=True)).digest()


def _file_of(unfinished: Unfinished | None) -> str:
    """Return the file that an upload goes into; empty if there is none."""
    receiver = unfinished.receiver if unfinished else None
    return receiver.name if isinstance(receiver, SpoolReceiver) else ""


def _is_of(unfinished: Unfinished, ticket: Ticket, digest: bytes) -> bool:
    """Tell whether an upload is of this payload of this ticket."""
    asked = replace(ticket, attempt=unfinished.ticket.attempt)  # it is the same in all of them
    return (unfinished.ticket, unfinished.digest) == (asked, digest)


async def _done(work: Callable[[], ReplyT], payload_bytes: int) -> ReplyT:
    """Do something with a payload; with a small one at once, which is less than to hand it over."""
    return work() if payload_bytes <= IN_JOURNAL else await asyncio.to_thread(work)


async def _verdict_of(verdict: Verdict) -> pb.Verdict:
    reason = await asyncio.wrap_future(verdict)
    return pb.Verdict(accepted=reason is None, reason=reason or "")
