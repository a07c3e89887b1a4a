"""A node at work: joins a coordinator, trains what it is given, and joins again if it must."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from roundel.client.grpc_enrol import fresh_until
from roundel.client.grpc_link import Link, NotOffered, Pauses, Say
from roundel.client.grpc_session import CALL_TIMEOUT_S, Session
from roundel.client.journal import Journal, Kept, NodeDirectory, Work
from roundel.client.node import HostedClients
from roundel.core.environment import describe_computer, roundel_version
from roundel.core.errors import ProtocolError, SessionLost
from roundel.core.messages import ClientFailure
from roundel.core.status import Activity
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import Identity, dial
from roundel.core.wire.convert import (
    capabilities_to_wire,
    evaluate_from_wire,
    train_from_wire,
    update_to_wire,
)
from roundel.core.wire.payload import digest_of, pack, unpack
from roundel.core.wire.versions import OURS, Version, mismatch

JOIN_TIMEOUT_S = 10.0
WAIT_S = 600.0

_DIGEST = 32  # bytes

Prepare = Callable[[str, Journal], HostedClients]
"""From what the coordinator says that it runs, as JSON, to the clients that this node hosts for it.

The journal keeps their states.
"""


def unencrypted() -> None:
    """Say that a node has no certificate."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Who joins what.

    Attributes:
        address: ``host:port`` of the coordinator.
        name: What the node calls itself.
        state: The node's directory, which no other process uses.
        wait_s: How long the coordinator may be away before it is given up on.
        identity: What the node proves its name with, asked for before each connection.
    """

    address: str
    name: str
    state: Path
    wait_s: float = WAIT_S
    identity: Callable[[], Identity | None] = unencrypted


def run_node(joining: Joining, prepare: Prepare, say: Say) -> None:
    """Join a coordinator and work for it until the run is over.

    A coordinator that is away is waited for, and one that has begun anew is joined anew. What the
    node has prepared it keeps as long as it is asked for the same experiment.

    Args:
        joining: Who joins what.
        prepare: Makes the clients, with their task and data.
        say: Is told, in one line each, what happens.

    Raises:
        ProtocolError: The coordinator refuses the node, or speaks another protocol.
        RunDirectoryError: The node's directory is in use, full or damaged.
        RunFailed: The coordinator cannot be reached, or went away.
    """
    with NodeDirectory(joining.state) as directory:
        member = _Member(joining, directory, prepare, say)
        pauses = Pauses()
        while True:
            try:
                reason = member.work()
                break
            except Stale:
                say(f"joining {joining.address} again, for the certificate is to be renewed")
            except SessionLost:
                say(f"{joining.address} does not know this node, or no longer: joining again")
                time.sleep(pauses.next_s())
        say(f"left: {reason}")


class Stale(Exception):
    """The certificate of this session is to be renewed."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a node has made for one experiment of one run."""

    run: str
    experiment: str
    clients: HostedClients
    journal: Journal

    def is_for(self, joined: pb.JoinReply) -> bool:
        """Tell whether it is what the coordinator runs."""
        return (self.run, self.experiment) == (joined.run, joined.experiment)


class _Member:
    """A node, from session to session."""

    def __init__(
        self, joining: Joining, directory: NodeDirectory, prepare: Prepare, say: Say
    ) -> None:
        self._joining = joining
        self._directory = directory
        self._prepare = prepare
        self._say = say
        self._prepared: _Prepared | None = None

    def work(self) -> str:
        """Join and do everything that comes; return why it ended.

        Raises:
            SessionLost: The coordinator has forgotten the node.
            Stale: The node's certificate is to be renewed.
        """
        joining = self._joining
        link = Link(joining.address, joining.wait_s, self._say)
        identity = joining.identity()
        until = fresh_until(identity, datetime.now(UTC))
        with dial(joining.address, identity) as channel:
            stub = pb_grpc.FederationStub(channel)
            joined = link.insist(lambda: self._join(stub))
            prepared = self._prepared_for(joined)
            session = Session(channel, link, joined.session)
            hosting = link.insist(lambda: self._host(stub, joined.session, prepared))
            self._say(self._welcome(hosting, prepared.clients))
            every_s = float(hosting.heartbeat_s)
            with session.beating(every_s, self._reached, lambda: self._again(stub, prepared)):
                return _Worker(session, prepared, self._say).work(until)

    def _again(self, stub: pb_grpc.FederationStub, prepared: _Prepared) -> str:
        """Join again with what is prepared; return the session.

        Raises:
            SessionLost: The coordinator runs something else by now.
        """
        joined = self._join(stub)
        if not prepared.is_for(joined):
            raise SessionLost("the coordinator runs something else by now")
        self._host(stub, joined.session, prepared)
        return str(joined.session)

    def _reached(self) -> None:
        self._directory.note_contact(time.time())

    def _join(self, stub: pb_grpc.FederationStub) -> pb.JoinReply:
        request = pb.JoinRequest(
            protocol=OURS.major,
            minor=OURS.minor,
            node=self._joining.name,
            version=roundel_version(),
            capabilities=capabilities_to_wire(describe_computer()),
        )
        joined: pb.JoinReply = stub.Join(request, timeout=JOIN_TIMEOUT_S)
        if problem := mismatch(self._joining.name, OURS, Version(OURS.major, joined.minor)):
            raise ProtocolError(problem)
        return joined

    def _prepared_for(self, joined: pb.JoinReply) -> _Prepared:
        """Return what there is for the experiment, made now unless it was made before."""
        before = self._prepared
        if before and before.is_for(joined):
            return before
        self._prepared = None  # two experiments need not fit into memory
        journal = self._directory.journal(joined.run, time.time())
        self._prepared = _Prepared(
            run=joined.run,
            experiment=joined.experiment,
            clients=self._prepare(joined.experiment, journal),
            journal=journal,
        )
        return self._prepared

    def _host(
        self, stub: pb_grpc.FederationStub, session: str, prepared: _Prepared
    ) -> pb.HostReply:
        """Say what the node hosts, and bring the states in line with those that count."""
        clients, journal = prepared.clients, prepared.journal
        held = journal.held(None if clients.own_data else clients.client_ids)
        request = pb.HostRequest(
            session=session,
            client_ids=clients.client_ids,
            population=clients.population,
            fingerprint=clients.fingerprint,
            states=[pb.HeldState(**vars(each)) for each in held],
            own_data=clients.own_data,
        )
        reply: pb.HostReply = stub.Host(request, timeout=CALL_TIMEOUT_S)
        for settled in reply.settled:
            journal.settle(settled.client_id, settled.round)
        return reply

    def _welcome(self, hosting: pb.HostReply, clients: HostedClients) -> str:
        whom = f"{len(clients.client_ids)} clients"
        if clients.own_data:
            whom = f"client {hosting.client_id} with examples of its own"
        return f"joined {self._joining.address} as {self._joining.name!r}, hosting {whom}"


class _Worker:
    """One session's loop over work."""

    def __init__(self, session: Session, prepared: _Prepared, say: Say) -> None:
        self._session = session
        self._clients = prepared.clients
        self._journal = prepared.journal
        self._say = say
        self._payload: tuple[bytes, memoryview] = (b"", memoryview(b""))
        self._taken: set[Work] = set()

    def work(self, until: datetime) -> str:
        """Do everything that comes; return why it ended.

        Raises:
            Stale: That time has come.
        """
        while datetime.now(UTC) < until:
            work = self._session.poll()
            match work.WhichOneof("kind"):
                case "train":
                    self._train(work.train)
                case "evaluate":
                    self._evaluate(work.evaluate)
                case "commit":
                    self._commit(work.commit)
                case "over":
                    return str(work.over.reason)
                case _:
                    pass
            self._session.activity = None
        raise Stale

    def _train(self, work: pb.Train) -> None:
        """Answer a piece of work, unless that has been done: it may be given out twice."""
        this = _work_of(work.ticket)
        self._taken = {other for other in self._taken if other.round >= this.round}
        self._journal.drop_before(this.round)
        update = None if this in self._taken else self._kept(work) or self._trained(work)
        if update is None:
            return
        if self._session.upload(update.header, update.payload, begun=update.begun).accepted:
            self._taken.add(this)
            self._journal.drop(this.client_id)

    def _kept(self, work: pb.Train) -> "_Update | None":
        """Return the answer to this very work, if it was found before and could not be sent."""
        kept = self._journal.kept(_work_of(work.ticket))
        if kept is None:
            return None
        update = _read_update(kept, work)
        if update is None:
            self._journal.drop(work.ticket.client_id)
        return update

    def _trained(self, work: pb.Train) -> "_Update | None":
        """Train a client; return its update, which is on the disk, or None if there is none."""
        round, client_id = work.ticket.round, work.ticket.client_id
        self._session.activity = Activity(what="train", client=client_id, round=round)
        try:
            data = self._download(work.payload)
        except NotOffered:
            self._say(f"round {round}: over before client {client_id} began")
            return None
        request = train_from_wire(work, unpack(data))
        with self._session.training():
            answer, state = self._clients.train(request)
        if isinstance(answer, ClientFailure):
            self._session.fail(answer)
            return None
        packed = pack(answer.channels)
        header = update_to_wire(answer, "", pb.Payload(size=packed.size, digest=packed.digest))
        kept = self._journal.keep(
            _work_of(work.ticket),
            packed.pieces,
            work.payload.digest + header.SerializeToString(),
            state if self._clients.stateful else None,
            seconds=answer.seconds,
        )
        return _Update(header=header, payload=kept.payload, begun=False)

    def _evaluate(self, work: pb.Evaluate) -> None:
        self._session.activity = Activity(
            what="evaluate", client=work.ticket.client_id, round=work.ticket.round
        )
        try:
            data = self._download(work.payload)
        except NotOffered:
            return
        answer = self._clients.evaluate(evaluate_from_wire(work, unpack(data)))
        if isinstance(answer, ClientFailure):
            self._session.fail(answer)
        else:
            self._session.report(answer)

    def _commit(self, commit: pb.Commit) -> None:
        self._journal.commit(commit.round, commit.client_ids)
        self._say(f"round {commit.round}: {len(commit.client_ids)} of my clients took part")

    def _download(self, payload: pb.Payload) -> memoryview:
        """Return a payload; the one at hand is kept."""
        if self._payload[0] != payload.digest:
            self._payload = (b"", memoryview(b""))  # two need not fit into memory
            self._payload = (payload.digest, self._session.download(payload))
        return self._payload[1]


@dataclass(frozen=True, kw_only=True)
class _Update:
    """An update on its way.

    Attributes:
        header: Without the session.
        payload: The tensors, as they travel.
        begun: Whether some of it may have been sent before.
    """

    header: pb.UpdateHeader
    payload: memoryview
    begun: bool


def _read_update(kept: Kept, work: pb.Train) -> _Update | None:
    """Return an update that was kept, if it is whole and starts from what the work starts from."""
    header = pb.UpdateHeader()
    try:
        header.ParseFromString(kept.about[_DIGEST:])
    except DecodeError:
        return None
    same = (kept.about[:_DIGEST], header.base_version) == (work.payload.digest, work.base_version)
    if not same or digest_of(kept.payload) != header.payload.digest:
        return None
    header.ticket.CopyFrom(work.ticket)
    return _Update(header=header, payload=kept.payload, begun=True)


def _work_of(ticket: pb.Ticket) -> Work:
    return Work(client_id=ticket.client_id, round=ticket.round, stage=ticket.stage)
