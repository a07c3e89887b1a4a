"""What nodes may call, and how each call is answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc import aio

from roundel.core.certificates import check_node_name
from roundel.core.errors import ProtocolError, RunDirectoryError, SessionLost
from roundel.core.fingerprint import misfit
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    activity_from_wire,
    capabilities_from_wire,
    evaluation_from_wire,
    failure_from_wire,
    ticket_from_wire,
)
from roundel.core.wire.frames import chunk
from roundel.core.wire.payload import Packed
from roundel.core.wire.versions import OURS, Version, mismatch
from roundel.server import callers
from roundel.server.alarm import Alarm
from roundel.server.answers import Answers, UploadPart
from roundel.server.arrivals import Arrival, Hosting, Intake, Terms
from roundel.server.grpc_security import Security
from roundel.server.nodes import Node, Nodes
from roundel.server.pacing import Pacer
from roundel.server.seats import Seats
from roundel.server.spool import SendAgain
from roundel.server.store import Store

POLL_S = 20.0
HEARTBEAT_S = 3.0
LONGEST_HEARTBEAT_S = 6.0
"""How often a node of a large federation calls: three times before it counts as silent."""

_BEATS_PER_S = 150
"""Signs of life that shall come in, from all nodes together."""

_TOGETHER = 4
"""Polls that are answered at a time."""

_SEATS = "seats"

ReplyT = TypeVar("ReplyT")
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


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
        """Begin to answer, on the event loop that runs.

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
        self._alarm = Alarm(asyncio.get_running_loop())
        self._answers = Answers(store, intake, terms.update_limit)

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
                clients = [await self._answers.kept(self._seat(node.name))]
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
            arrived, alarm = asyncio.Event(), self._alarm
            node = self._seen(request.session)
            node.activity = None  # whoever asks for work does nothing
            taken = request.taken
            given = self._nodes.take(request.session, taken, lambda: alarm.ring(arrived))
            if given is not None:
                taken = given[0] - 1
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await arrived.wait()
            await self._pacer.turn(partial(_when_over, context))
            given = self._nodes.take(request.session, taken)  # it may be wanted no longer
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
            node = self._seen(request.session)
            node.activity = activity_from_wire(request.activity)
            left_s = context.time_remaining()
            if node.clients and left_s is not None:  # it waits for an answer as long as for a beat
                every_s = heartbeat_s(self._terms.population, len(node.clients))
                self._intake.note_wait(node.name, every_s - left_s)
            return pb.BeatReply()

        return await _answered(context, answer())

    async def Download(self, request: pb.DownloadRequest, context: Context) -> AsyncIterator[bytes]:
        """Send a payload from an offset on, as messages that are written already."""

        async def find() -> tuple[Node[pb.Work], Packed]:
            node = self._seen(request.session)
            packed = self._payloads.get(request.digest)
            if packed is None:  # not the node's fault: a round can end before it comes to its work
                await context.abort(
                    grpc.StatusCode.NOT_FOUND, "this payload is not offered, or no longer"
                )
            return node, packed

        node, packed = await _answered(context, find())
        for message in packed.chunks(request.offset, chunk):
            node.bytes_down += len(message)
            yield message

    async def Upload(
        self, request_iterator: AsyncIterator[UploadPart], context: Context
    ) -> pb.Verdict:
        """Take an update in; one that is sent again gets the verdict that it got."""
        return await _answered(context, self._answers.upload(aiter(request_iterator), self._owner))

    async def Fail(self, request: pb.FailureReport, context: Context) -> pb.Verdict:
        """Take in that a client's work ended in an exception."""

        async def answer() -> pb.Verdict:
            node = self._owner(request.session, request.ticket.client_id)
            return await self._answers.report(node, request, Arrival(failure_from_wire(request)))

        return await _answered(context, answer())

    async def Report(self, request: pb.EvaluationReport, context: Context) -> pb.Verdict:
        """Take a client's figures in."""

        async def answer() -> pb.Verdict:
            node = self._owner(request.session, request.ticket.client_id)
            arrival = Arrival(evaluation_from_wire(request))
            return await self._answers.report(node, request, arrival)

        return await _answered(context, answer())

    async def Progress(self, request: pb.ProgressRequest, context: Context) -> pb.ProgressReply:
        """Say how much of an upload has arrived, also in an earlier session."""

        async def answer() -> pb.ProgressReply:
            node = self._owner(request.session, request.ticket.client_id)
            ticket = ticket_from_wire(request.ticket)
            arrived = await self._answers.progress(node, ticket, request.digest)
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
            accepted = self._store.journal.accepted_since(client_id)
            is_wanted = committed == wanted or (pending == wanted and wanted > 0)
            has_it = is_wanted and accepted in (0, pending)
            has_none = not (committed or pending or self._terms.may_keep(client_id))
            if self._terms.stateful and not (has_it or has_none):
                raise ProtocolError(
                    f"node {name!r} holds the state of client {client_id} as of round {committed}, "
                    f"and that of round {accepted or wanted} counts; join with the --state "
                    "directory of the node that hosted this client"
                )
            if client_id in held:
                settled.append(pb.SettledState(client_id=client_id, round=wanted))
        return settled


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


def _when_over(context: Context, do: Callable[[], None]) -> None:
    """Have something done once a call is over: its reply has left, or nobody wants it any more."""
    add: Any = context.add_done_callback  # its type takes no functions
    add(lambda _context: do())


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
