"""What nodes may call, and how each call is answered."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc import aio

from roundel.core.certificates import check_node_name
from roundel.core.errors import ProtocolError, RunDirectoryError, SessionLost
from roundel.core.fingerprint import misfit
from roundel.core.messages import Ticket
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    activity_from_wire,
    capabilities_from_wire,
    evaluation_from_wire,
    failure_from_wire,
    ticket_from_wire,
    update_from_wire,
)
from roundel.core.wire.payload import Packed, unpack
from roundel.core.wire.versions import OURS, Version, mismatch
from roundel.server import callers
from roundel.server.arrivals import Arrival, Hosting, Intake, Terms
from roundel.server.grpc_security import Security
from roundel.server.journal import Kept
from roundel.server.nodes import Node, Nodes, Unfinished
from roundel.server.pacing import Pacer
from roundel.server.seats import Seats
from roundel.server.spool import BATCH, SendAgain, SpoolReceiver
from roundel.server.store import Store

POLL_S = 20.0
HEARTBEAT_S = 3.0
LONGEST_HEARTBEAT_S = 6.0
"""How often a node of a large federation calls: three times before it counts as silent."""

_BEATS_PER_S = 150
"""Signs of life that shall come in, from all nodes together."""

_REMEMBERED = 64
"""Verdicts on answers of a node that are kept, and one for each of its clients."""

_UNDECIDED = 32
"""Answers of a node that may wait for their verdicts; it sends one after the other."""

_TOGETHER = 4
"""Polls that are answered at once when there is work for all nodes."""

_SEATS = "seats"

ReplyT = TypeVar("ReplyT")
Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Report: TypeAlias = pb.UpdateHeader | pb.FailureReport | pb.EvaluationReport


class Federation(pb_grpc.FederationServicer):
    """Answers the calls of nodes; all of them can be repeated."""

    def __init__(
        self,
        terms: Terms,
        nodes: Nodes[pb.Work],
        payloads: Mapping[bytes, Packed],
        store: Store,
        security: Security,
        intake: Intake,
    ) -> None:
        """Begin to answer.

        Args:
            terms: What nodes are told and held to.
            nodes: Who has joined, and what waits for them.
            payloads: Broadcasts that can be downloaded, by digest.
            store: Keeps what is acknowledged.
            security: Gives certificates.
            intake: Takes in what comes, for the thread that runs rounds.

        Raises:
            RunDirectoryError: The record of which node is which client is damaged.
        """
        self._terms = terms
        self._nodes = nodes
        self._payloads = payloads
        self._store = store
        self._security = security
        self._intake = intake
        self._seats = Seats.of(store.journal.fact(_SEATS) or "[]", terms.population)
        self._pacer = Pacer(_TOGETHER)
        self._unattended: set[asyncio.Task[pb.Verdict]] = set()

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        """Let a node in and tell it what the run is about."""

        async def answer() -> pb.JoinReply:
            version = Version(request.protocol, request.minor)
            name = request.node
            check_node_name(name)
            if problem := mismatch(name, version, OURS):
                raise ProtocolError(problem)
            callers.check_speaks_for(name)
            capabilities = capabilities_from_wire(request.capabilities)
            session = self._nodes.join(name, capabilities)
            await asyncio.to_thread(self._security.record, "joined", node=name)
            terms = self._terms
            return pb.JoinReply(
                run=terms.run, session=session, experiment=terms.experiment, minor=OURS.minor
            )

        return await _answered(context, answer())

    async def Host(self, request: pb.HostRequest, context: Context) -> pb.HostReply:
        """Let a node host clients, if it fits the run and has the state that they need."""

        async def answer() -> pb.HostReply:
            node, terms = self._seen(request.session), self._terms
            if problem := misfit(node.name, request.fingerprint, terms.fingerprint):
                raise ProtocolError(problem)
            if request.population != terms.population or any(
                not 0 <= client < terms.population for client in request.client_ids
            ):
                raise ProtocolError(
                    f"node {node.name!r} hosts clients of a population of {request.population}, "
                    f"and the run has {terms.population}"
                )
            clients = list(dict.fromkeys(request.client_ids))
            if request.own_data != terms.own_data:
                raise ProtocolError(
                    f"node {node.name!r} hosts clients of a pool that is divided, and in this run "
                    "every node brings its own examples; join with --data"
                    if terms.own_data
                    else f"node {node.name!r} brings its own examples, and this run divides those "
                    "that it has; join without --data"
                )
            if request.own_data:
                clients = [await self._kept(self._seat(node.name))]
            self._nodes.host(request.session, clients)
            try:
                # Not before: what is committed from now on reaches the node in this session.
                settled = self._settled(node.name, clients, request.states)
            except ProtocolError:
                self._nodes.host(request.session, ())
                raise
            if clients:
                self._store.journal.saw_node(node.name, asdict(node.capabilities))
            self._intake.submit(Hosting(tuple(clients)))
            return pb.HostReply(
                heartbeat_s=heartbeat_s(terms.population, len(clients)),
                settled=settled,
                client_id=clients[0] if request.own_data else 0,
            )

        return await _answered(context, answer())

    async def Poll(self, request: pb.PollRequest, context: Context) -> pb.Work:
        """Give a node its next work, or none after a while."""

        async def answer() -> pb.Work:
            loop, arrived = asyncio.get_running_loop(), asyncio.Event()

            def wake() -> None:
                loop.call_soon_threadsafe(arrived.set)

            node = self._seen(request.session)
            given = self._nodes.take(request.session, request.taken, wake)
            if given is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await arrived.wait()
                    await self._pacer.turn()
                given = self._nodes.take(request.session, request.taken)
            reply = pb.Work()
            if given is not None:
                reply.number, work = given
                reply.MergeFrom(work)
                node.round = max(node.round, work.train.ticket.round)
            return reply

        return await _answered(context, answer())

    async def Beat(self, request: pb.BeatRequest, context: Context) -> pb.BeatReply:
        """Note that a node is alive, and what it does."""

        async def answer() -> pb.BeatReply:
            self._seen(request.session).activity = activity_from_wire(request.activity)
            return pb.BeatReply()

        return await _answered(context, answer())

    async def Download(
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncIterator[pb.Chunk]:
        """Send a payload from an offset on."""

        async def find() -> tuple[Node[pb.Work], Packed]:
            node = self._seen(request.session)
            packed = self._payloads.get(request.digest)
            if packed is None:  # not the node's fault: a round can end before it comes to its work
                await context.abort(
                    grpc.StatusCode.NOT_FOUND, "this payload is not offered, or no longer"
                )
            return node, packed

        node, packed = await _answered(context, find())
        for chunk in packed.chunks(request.offset):
            node.bytes_down += len(chunk)
            yield pb.Chunk(data=chunk)

    async def Upload(
        self, request_iterator: AsyncIterator[pb.UploadPart], context: Context
    ) -> pb.Verdict:
        """Take an update in; one that is sent again gets the verdict that it got."""

        async def answer() -> pb.Verdict:
            parts = aiter(request_iterator)
            first = await anext(parts, pb.UploadPart())
            if first.WhichOneof("part") != "header":
                raise ProtocolError("an upload must begin with its header")
            header = first.header
            node = self._owner(header.session, header.ticket.client_id)
            key, identity = _key(header), _identity(header)
            if key in node.verdicts:
                return await _verdict_of(node.verdicts[key])
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

        return await _answered(context, answer())

    async def Fail(self, request: pb.FailureReport, context: Context) -> pb.Verdict:
        """Take in that a client's work ended in an exception."""

        async def answer() -> pb.Verdict:
            node = self._owner(request.session, request.ticket.client_id)
            return await self._judge(node, _key(request), Arrival(failure_from_wire(request)))

        return await _answered(context, answer())

    async def Report(self, request: pb.EvaluationReport, context: Context) -> pb.Verdict:
        """Take a client's figures in."""

        async def answer() -> pb.Verdict:
            node = self._owner(request.session, request.ticket.client_id)
            return await self._judge(node, _key(request), Arrival(evaluation_from_wire(request)))

        return await _answered(context, answer())

    async def Progress(self, request: pb.ProgressRequest, context: Context) -> pb.ProgressReply:
        """Say how much of an upload has arrived, also in an earlier session."""

        async def answer() -> pb.ProgressReply:
            node = self._owner(request.session, request.ticket.client_id)
            ticket, found = ticket_from_wire(request.ticket), node.unfinished
            if found is not None and _is_of(found, ticket, request.digest):
                return pb.ProgressReply(offset=found.receiver.filled)
            arrived = await asyncio.to_thread(self._store.arrived, ticket, request.digest)
            return pb.ProgressReply(offset=arrived)

        return await _answered(context, answer())

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.Certificate:
        """Give a node a new certificate in place of one that is about to expire."""

        async def answer() -> pb.Certificate:
            certificate, authority = await asyncio.to_thread(
                self._security.renew, callers.current(), request.request
            )
            return pb.Certificate(certificate=certificate, authority=authority)

        return await _answered(context, answer())

    def _seen(self, session: str) -> Node[pb.Work]:
        """Return the node that calls; refuse one that uses another's session."""
        node = self._nodes.seen(session)
        callers.check_speaks_for(node.name)
        return node

    def _owner(self, session: str, client_id: int) -> Node[pb.Work]:
        """Return the node that calls; refuse one that speaks for a client it does not host."""
        node = self._seen(session)
        if not self._nodes.hosts(session, client_id):
            raise ProtocolError(f"this node does not host client {client_id}")
        return node

    async def _seat(self, name: str) -> int:
        """Return which client a node is that brings its own examples; the same one every time."""
        self._seats, client_id = self._seats.seated(name)
        written = self._store.journal.set_fact(_SEATS, self._seats.text())
        await asyncio.wrap_future(written)
        return client_id

    def _settled(
        self, name: str, clients: Sequence[int], states: Sequence[pb.HeldState]
    ) -> list[pb.SettledState]:
        """Say which state of each client counts; refuse a node that does not have it."""
        held = {state.client_id: (state.committed, state.pending) for state in states}
        settled = []
        for client_id in clients:
            wanted = self._store.journal.last_round_of(client_id)
            committed, pending = held.get(client_id, (0, 0))
            has_it = committed == wanted or (pending == wanted and wanted > 0)
            accepted = self._store.journal.accepted_since(client_id)
            if self._terms.stateful and not (has_it and accepted in (0, pending)):
                raise ProtocolError(
                    f"node {name!r} holds the state of client {client_id} as of round {committed}, "
                    f"and that of round {accepted or wanted} counts; join with the --state "
                    "directory of the node that hosted this client"
                )
            if client_id in held:
                settled.append(pb.SettledState(client_id=client_id, round=wanted))
        return settled

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
            if before is not None and not same and isinstance(before.receiver, SpoolReceiver):
                self._store.drop(before.receiver.name)  # a node has one unfinished upload
            receiver = await self._kept(
                asyncio.to_thread(
                    self._store.receiver,
                    *(ticket, payload.digest, payload.size, self._terms.update_limit),
                )
            )
            if header.offset and not receiver.filled:
                raise ProtocolError("nothing has arrived of the upload that is to go on")
        if receiver.filled != header.offset:
            receiver.rewind(header.offset)
        other = _file_of(node.unfinished)  # another call may have begun meanwhile
        node.unfinished = Unfinished(ticket, payload.digest, receiver)
        if other and other != _file_of(node.unfinished):
            self._store.drop(other)
        return node.unfinished

    async def _receive(
        self, node: Node[pb.Work], unfinished: Unfinished, parts: AsyncIterator[pb.UploadPart]
    ) -> None:
        """Take parts in until no more come."""
        receiver = unfinished.receiver
        spooled = receiver if isinstance(receiver, SpoolReceiver) else None
        try:
            async for part in parts:
                if part.WhichOneof("part") != "data":
                    raise ProtocolError("an upload has one header only")
                if node.unfinished is not unfinished:
                    raise ProtocolError("this upload goes on in another call")
                receiver.take(part.data)
                node.bytes_up += len(part.data)
                if spooled and spooled.waiting >= BATCH:
                    await self._kept(asyncio.to_thread(spooled.flush))
        finally:
            if spooled:  # however it ended: what has arrived need not come again
                await self._kept(asyncio.to_thread(spooled.flush))

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
        data, file = await self._kept(asyncio.to_thread(self._store.finish, unfinished.receiver))
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
        return await self._judge(node, key, Arrival(update, kept))

    async def _judge(self, node: Node[pb.Work], key: bytes, arrival: Arrival) -> pb.Verdict:
        """Hand an answer to the thread that runs rounds, and wait for what it says.

        What was answered before gets the verdict that it got then.
        """
        if key in node.verdicts:
            self._store.drop(arrival.kept.file if arrival.kept else "")  # it has come twice
        else:
            if arrival.kept is None:
                _check_waits_for_few(node)
            node.verdicts[key] = arrival.verdict
            while len(node.verdicts) > _REMEMBERED + len(node.clients):
                del node.verdicts[next(iter(node.verdicts))]
            self._intake.submit(arrival)
            verdict = await self._kept(_verdict_of(arrival.verdict))
            node.failures += not verdict.accepted or arrival.is_failure
            return verdict
        return await _verdict_of(node.verdicts[key])

    async def _kept(self, writing: Awaitable[ReplyT]) -> ReplyT:
        """Wait until something is written; if the disk is full, that ends the run."""
        try:
            return await writing
        except RunDirectoryError as error:
            self._intake.submit(error)
            raise

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


def heartbeat_s(population: int, clients: int) -> float:
    """Return how often a node shall say that it is alive, in seconds.

    Signs of life that come in faster than calls are answered would wait behind each other, and
    they are the more, the more nodes there are.

    Args:
        population: How many clients the run has.
        clients: How many of them the node hosts; the others are taken to host as many.
    """
    nodes = population / max(1, clients)
    return min(max(HEARTBEAT_S, nodes / _BEATS_PER_S), LONGEST_HEARTBEAT_S)


def _check_waits_for_few(node: Node[pb.Work]) -> None:
    """Refuse a further answer of a node that does not wait for the verdicts on those before it.

    Raises:
        SendAgain: It may come again later.
    """
    newest = list(islice(reversed(node.verdicts.values()), _UNDECIDED))
    if len(newest) == _UNDECIDED and not any(verdict.done() for verdict in newest):
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


async def _verdict_of(verdict: "Future[str | None]") -> pb.Verdict:
    reason = await asyncio.wrap_future(verdict)
    return pb.Verdict(accepted=reason is None, reason=reason or "")


async def _answered(context: Context, work: Awaitable[ReplyT]) -> ReplyT:
    """Return the reply, or end the call with the sentence of an error."""
    try:
        return await work
    except SessionLost as error:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        raise
    except ProtocolError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise
    except (SendAgain, RunDirectoryError) as error:  # nothing the node can do about
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        raise
